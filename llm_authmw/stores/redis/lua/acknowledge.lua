-- Begin a ledger, or go on with what is left of one. KEYS: its mark. Asked: mark, the highest that the caller has seen.
-- The time in microseconds is higher than any number of writes before it.

mark = math.max(now, asked.mark + 1)
call('SET', mark_key, mark)
return answer(failure('acknowledged'))
