"""`llm-authmw audit verify`, `prune`, `forget` and `keygen`: that records are as they were written, and go when they have to."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from llm_authmw.cli.durations import parse_duration
from llm_authmw.cli.options import json_option, reading
from llm_authmw.cli.output import Column, emit, note, print_fields, print_table, say
from llm_authmw.cli.target import Target
from llm_authmw.cli.trails import each_stored, files_option, moment_of, progress, read_file
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.erasure import Forgotten, forget_in_file, prune_file
from llm_authmw.trail.findings import Finding, Report
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.verification import Verifier


@click.command(
    epilog="""\b
Examples:
  llm-authmw audit verify --key audit.pub
  llm-authmw audit verify --file audit.jsonl.1.gz --file audit.jsonl --key audit.pub --anchors /mnt/elsewhere/anchors.jsonl
  llm-authmw audit verify --file audit.jsonl --key audit.pub --since 90d

Each process that writes has a chain of entries, and each chain has to be there from its beginning on. With --since, entries of before
that moment may have been removed, up to a checkpoint of before it. Without --key no signature is checked, and whoever could write the
records could write all of them anew.

An ALARM means that the records are not as they were written: an entry was changed, taken out, moved or cut off, or is signed by none of
the keys. A NOTICE does not: a process that still writes, half a line where a machine stopped. WHERE is a line of a file, or a position
in the store. Ends with 0 where there is no alarm, and with 1 where there is one."""
)
@files_option
@click.option(
    "--key",
    "keys",
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="The public key of whoever signs checkpoints, as keygen prints it. Repeatable.",
)
@click.option(
    "--anchors",
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Checkpoints that were kept elsewhere: what they name must be there. Repeatable.",
)
@click.option("--since", metavar="WHEN", help="Entries that are older may have been pruned: 90d (90 days ago), or a date.")
@reading
def verify(target: Target, /, *, files: tuple[Path, ...], keys: tuple[Path, ...], anchors: tuple[Path, ...], since: str | None) -> None:
    """Say whether the records are as they were written, or where not."""
    verifier = Verifier(
        keys=[_key(path) for path in keys],
        anchors=[line for path in anchors for line in path.read_bytes().splitlines()],
        since=moment_of(target, "--since", since),
    )
    if files:
        with progress(files) as advance:
            for path in files:
                verifier.read(read_file(path, advance), file=str(path))
    else:
        each_stored(target, RecordQuery(), lambda line, position: verifier.add(line, file=None, number=position))
    report = verifier.report()
    if target.json:
        emit(_report_object(report, keys=len(keys)))
    else:
        _print_report(report, signed=bool(keys), store=None if files else target.place)
    if not report.sound:
        click.get_current_context().exit(1)


@click.command(
    epilog="""\b
Examples:
  llm-authmw audit prune --keep 90d
  llm-authmw audit prune --keep 90d --file audit.jsonl.1
  llm-authmw audit verify --since 90d --key audit.pub

Of each writer the oldest entries go, up to a checkpoint: what is left can be verified. A file must not be open in a process that
writes to it: prune those that are rotated away, or remove them as a whole. Sums of use stay."""
)
@files_option
@click.option("--keep", metavar="DURATION", required=True, help="How old records may be that stay: 90d. At least 1d.")
@reading
def prune(target: Target, /, *, files: tuple[Path, ...], keep: str) -> None:
    """Remove the records that are older than --keep says."""
    seconds = parse_duration(keep)
    if seconds < 86_400:
        raise InvalidValueError("--keep: at least 1d")
    before = int((target.now - seconds) * 1_000_000)
    gone = sum(prune_file(path, before) for path in files) if files else target.run(lambda store: store.audit.prune(before), records=True)
    if target.json:
        emit({"removed": gone})
    else:
        say(f"{gone} {'record is' if gone == 1 else 'records are'} removed")


@click.command(
    epilog="""\b
Examples:
  llm-authmw audit forget ada
  llm-authmw audit forget ada --realm corp --file audit.jsonl.1 --file audit.jsonl

What says who it is goes from every record whose user, or end user, this is: the name, the addresses, what was changed. What was done,
decided and used stays, and the chain can be verified. Do it once more later for what was on its way. A packed file is unpacked first."""
)
@click.argument("user")
@files_option
@click.option("--tenant", metavar="NAME", default=DEFAULT_TENANT, show_default=True, help="The tenant that the user is of.")
@click.option("--realm", metavar="NAME", help="Where the name means one person. Left out: everywhere.")
@reading
def forget(target: Target, /, *, user: str, files: tuple[Path, ...], tenant: str, realm: str | None) -> None:
    """Take a person out of the records, and let what happened stand."""
    if files:
        parts = [forget_in_file(path, tenant, user, realm=realm) for path in files]
        done = Forgotten(sum(part.entries for part in parts), sum(part.remaining for part in parts))
    else:
        done = Forgotten(target.run(lambda store: store.audit.forget(tenant, user, realm=realm), records=True), 0)
    if target.json:
        emit({"forgotten": done.entries, "remaining": done.remaining})
        return
    say(f"{done.entries} {'record no longer says' if done.entries == 1 else 'records no longer say'} who it was")
    if done.remaining:
        note(f"{done.remaining} lines hold the name still, and cannot be changed: lines of OCSF, or of no writer of ours.")


@click.command(
    epilog="""\b
Example:
  llm-authmw audit keygen audit.pem > audit.pub
  …FileSink("audit.jsonl", signing_key="file:audit.pem")

The private key belongs to the processes that write records. Who verifies them needs the public one only."""
)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def keygen(context: click.Context, /, *, path: Path) -> None:
    """Make a pair of keys (Ed25519) that checkpoints are signed with.

    The private one is written into PATH, a new file, and the public one to the output.
    """
    secret = make_signing_key()
    key = SigningKey(secret)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidValueError(f"{path} is there already") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret.reveal())
    if Target(context).json:
        emit({"key_id": key.id, "path": str(path), "public_key": key.public_pem})
    else:
        click.echo(key.public_pem, nl=False)
        note(f"Key {key.id}: the private one is in {path}, the public one above is for: llm-authmw audit verify --key")


def _key(path: Path) -> VerifyingKey:
    try:
        return VerifyingKey(path.read_bytes())
    except ConfigurationError as error:
        raise ConfigurationError("--key", f"{path}: {error.problem}") from None


def _report_object(report: Report, *, keys: int) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(report)
    del told["findings"]
    return {**told, "alarms": msgspec.to_builtins(report.alarms), "notices": msgspec.to_builtins(report.notices), "keys": keys}


def _print_report(report: Report, *, signed: bool, store: str | None) -> None:
    _print_findings("ALARM", report.alarms, report.more_alarms)
    _print_findings("NOTICE", report.notices, report.more_notices)
    print_fields(
        [
            ("store", store),
            ("records", f"{report.entries} of {report.writers} {'writer' if report.writers == 1 else 'writers'}"),
            ("signatures", f"{report.signatures} of {report.checkpoints} checkpoints" if signed else "not checked: no --key"),
            ("forgotten persons", f"in {report.forgotten} {'record' if report.forgotten == 1 else 'records'}"),
            ("verdict", "as they were written" if report.sound else "NOT as they were written"),
        ]
    )


def _print_findings(heading: str, findings: Sequence[Finding], more: int) -> None:
    if not findings:
        return
    columns = [Column(heading), Column("WHERE", "wrap"), Column("WRITER"), Column("ENTRY"), Column("WHAT", "wrap")]
    rows = [
        [finding.kind, _where(finding), finding.writer, None if finding.sequence is None else str(finding.sequence), finding.text]
        for finding in findings
    ]
    print_table(columns, rows)
    say("")
    if more:
        note(f"There are {more} more of these.")


def _where(finding: Finding) -> str:
    return f"position {finding.position}" if finding.file is None else f"{finding.file}:{finding.line}"
