"""What a policy says to one request, so that a failing test says why."""

from dataclasses import dataclass

from llm_authmw.call import LLMCall
from llm_authmw.context import Decision
from llm_authmw.errors import Denial
from llm_authmw.principal import Principal
from llm_authmw.testing.asgi import Response


@dataclass(frozen=True, kw_only=True, repr=False)
class Answer:
    """What a policy says to one request. Made by `call`.

    Attributes:
        question: What was asked, and as whom, in words.
        allowed: Whether the request reached the app; of a socket, whether its message did too, if one was sent.
        status: The status of the answer; 200 or 101 where the app was reached.
        denial: The denial, if a layer of ours has denied.
        principal: Who called, as far as the layers found out.
        roles: The roles that the caller has here.
        tier: The tier that the role gives which allowed the request.
        call: What the request asks for, if a layer has read it.
        decisions: What each layer decided, in order.
        shadowed: Denials that were not enforced, since their layer or rule is on trial.
        response: What the client got.
    """

    question: str
    allowed: bool
    status: int
    denial: Denial | None
    principal: Principal
    roles: tuple[str, ...]
    tier: str | None
    call: LLMCall | None
    decisions: tuple[Decision, ...]
    shadowed: tuple[Denial, ...]
    response: Response

    @property
    def reason(self) -> str | None:
        """The exact reason code of the denial, which the client may not be told."""
        return None if self.denial is None else self.denial.reason

    @property
    def rule(self) -> str | None:
        """The role, policy or rule that denied, or came nearest."""
        return None if self.denial is None else self.denial.rule

    @property
    def need(self) -> str | None:
        """What would have been needed."""
        return None if self.denial is None else self.denial.need

    @property
    def layer(self) -> str | None:
        """The layer that denied."""
        return None if self.denial is None else self.denial.layer

    @property
    def verdict(self) -> str:
        """The answer in a word: `✓`, or status and reason of the denial; then what is on trial, if anything is."""
        # Without a reason it was no layer of ours: a foreign one in the stack has answered by itself.
        verdict = "✓" if self.allowed else f"{self.status} {self.reason or '(foreign)'}"
        return verdict + "".join(f" (on trial: {denial.reason})" for denial in self.shadowed)

    def __repr__(self) -> str:
        # What decides comes first: pytest shortens a long text in its middle.
        parts = ["allowed" if self.allowed else f"denied {self.status} {self.reason or 'by a foreign layer'}"]
        told = {"rule": self.rule, "need": self.need, "layer": self.layer}
        parts += [f"{name} {value!r}" for name, value in told.items() if value is not None]
        parts += [f"on trial {denial.reason} by rule {denial.rule!r}" for denial in self.shadowed]
        roles = f" with roles {', '.join(self.roles)}" if self.roles else ""
        took = ", ".join(f"{decision.layer} {decision.outcome}" for decision in self.decisions) or "no layer decided"
        return f"<{', '.join(parts)}: {self.question}{roles}; {took}>"
