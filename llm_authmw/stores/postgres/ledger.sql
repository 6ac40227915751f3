-- The ledger; llm_authmw/ledger/contract.py says what it must do. Each of its calls is one call of one function here, so one round
-- trip, and one transaction.
--
-- Moments and durations are whole microseconds, moments since 1970. A *level* is what counts against a limit: amounts, and of a
-- rolling bucket amounts times microseconds of its period, where they come back in parts (llm_authmw/ledger/gcra.py).
--
-- Nobody waits for somebody who waits for them: locks are taken in one order, which is reservations by their ids, counters by
-- their buckets, leases. Who looks for what is over passes by what is locked.

-- Whoever calls the functions, with whatever search path: they use what stands beside them.
SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true);

-- One row per bucket, and per window of it. It is found by a digest, which has the tenant in it: names are longer than an index takes.
CREATE TABLE authmw_ledger_counters (
    bucket bytea NOT NULL,
    starts_at bigint NOT NULL, -- of the window; 0 where there is none
    ends_at bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    used bigint NOT NULL DEFAULT 0,
    full_at bigint NOT NULL DEFAULT 0, -- when a rolling bucket is full again,
    full_part bigint NOT NULL DEFAULT 0, -- and the part of a microsecond, in 1 / limit
    look_at bigint, -- when to see whether it can be dropped: no use writes it, so that no use has an index to write
    PRIMARY KEY (bucket, starts_at, ends_at)
) WITH (fillfactor = 50);
CREATE INDEX authmw_ledger_counters_by_look ON authmw_ledger_counters (look_at) WHERE look_at IS NOT NULL;

CREATE TYPE authmw_ledger_entry AS (
    place integer, -- among the claims, from 1
    bucket bytea,
    tenant text,
    name text,
    kind text,
    measure text,
    amount bigint,
    quota bigint,
    capacity bigint, -- the burst of a rolling bucket, else the quota
    unit bigint, -- of the level: the period of a rolling bucket, else 1
    starts_at bigint,
    ends_at bigint -- NULL where the moment is in none of the windows
);

-- No tenant stands before an id: it is unguessable, and one reservation may be on buckets of several tenants.
CREATE TABLE authmw_ledger_reservations (
    id text COLLATE "C" PRIMARY KEY,
    at bigint NOT NULL,
    expires_at bigint NOT NULL,
    settled_at bigint,
    entries authmw_ledger_entry[] NOT NULL,
    answer json NOT NULL,
    settlement json,
    look_at bigint NOT NULL -- when to see whether it can be forgotten
) WITH (fillfactor = 60);
CREATE INDEX authmw_ledger_reservations_by_look ON authmw_ledger_reservations (look_at);

-- What is held of the buckets that count what is concurrent. What has expired counts no more, and is taken out of `used` when
-- somebody next asks for the bucket.
CREATE TABLE authmw_ledger_leases (
    reservation_id text COLLATE "C" NOT NULL,
    bucket bytea NOT NULL,
    expires_at bigint NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (reservation_id, bucket)
);
CREATE INDEX authmw_ledger_leases_by_end ON authmw_ledger_leases (bucket, expires_at);

CREATE FUNCTION authmw_ledger_clock() RETURNS bigint LANGUAGE sql VOLATILE
RETURN floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

CREATE FUNCTION authmw_ledger_days(days integer) RETURNS bigint LANGUAGE sql IMMUTABLE
RETURN days * 86400000000;

-- The buckets of some claims, each with the window that the moment is in.
CREATE FUNCTION authmw_ledger_entries(claims jsonb, moment bigint) RETURNS SETOF authmw_ledger_entry LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        place::integer,
        sha256(convert_to(concat_ws(E'\n', tenant, name, kind), 'UTF8')), -- none of them has a line break in it
        tenant, name, kind, measure, (claim -> 'amount')::bigint, "limit",
        CASE kind WHEN 'rolling' THEN burst ELSE "limit" END,
        CASE kind WHEN 'rolling' THEN period ELSE 1 END,
        CASE kind WHEN 'window' THEN starts_at ELSE 0 END,
        CASE kind WHEN 'window' THEN ends_at ELSE 0 END
    FROM jsonb_array_elements(claims) WITH ORDINALITY AS claimed (claim, place)
    CROSS JOIN jsonb_to_record(claim -> 'bucket')
        AS wanted (tenant text, name text, kind text, measure text, "limit" bigint, burst bigint, period bigint, spans jsonb)
    LEFT JOIN LATERAL (
        SELECT (span -> 0)::bigint, (span -> 1)::bigint FROM jsonb_array_elements(spans) AS candidate (span)
        WHERE (span -> 0)::bigint <= moment AND moment < (span -> 1)::bigint
    ) AS present (starts_at, ends_at) ON true;
END;

CREATE FUNCTION authmw_ledger_level_of(entry authmw_ledger_entry, used bigint, full_at bigint, full_part bigint, moment bigint)
RETURNS numeric LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN entry.kind <> 'rolling' THEN used
    WHEN full_at < moment THEN 0
    -- A part is of the limit that it was counted in; under a lower one it is less than a microsecond all the same.
    ELSE (full_at - moment)::numeric * entry.quota + least(full_part, entry.quota - 1)
END;

CREATE FUNCTION authmw_ledger_balance(entry authmw_ledger_entry, level numeric, moment bigint) RETURNS json LANGUAGE sql IMMUTABLE
RETURN json_build_object(
    'used', div(level + entry.unit - 1, entry.unit),
    'limit', entry.quota,
    'left', greatest(0, entry.capacity - div(level + entry.unit - 1, entry.unit)),
    'ends_at', CASE
        WHEN entry.kind <> 'rolling' THEN nullif(entry.ends_at, 0)
        WHEN level > 0 THEN moment + div(level + entry.quota - 1, entry.quota)
    END
);

CREATE FUNCTION authmw_ledger_refusal(entry authmw_ledger_entry, level numeric, moment bigint) RETURNS json LANGUAGE sql IMMUTABLE
RETURN json_build_object(
    'claim', entry.place - 1,
    'never', entry.amount > entry.capacity,
    'wait', CASE
        WHEN entry.amount > entry.capacity THEN NULL
        WHEN entry.kind = 'rolling'
            THEN div(level + (entry.amount - entry.capacity)::numeric * entry.unit + entry.quota - 1, entry.quota)
        WHEN entry.kind = 'window' THEN entry.ends_at - moment
    END
);

-- Locks a bucket's counter, which is made where there is none, and returns its level.
CREATE FUNCTION authmw_ledger_level(entry authmw_ledger_entry, moment bigint) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    counter authmw_ledger_counters;
    freed bigint;
BEGIN
    LOOP
        SELECT * INTO counter FROM authmw_ledger_counters AS c
        WHERE c.bucket = entry.bucket AND c.starts_at = entry.starts_at AND c.ends_at = entry.ends_at
        FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO authmw_ledger_counters (bucket, starts_at, ends_at, tenant, name, kind, look_at)
        VALUES (
            entry.bucket, entry.starts_at, entry.ends_at, entry.tenant, entry.name, entry.kind,
            -- A window is kept for as long as a request in it can be settled: one that runs for a day, another day later.
            greatest(moment, entry.ends_at) + authmw_ledger_days(2)
        ) ON CONFLICT DO NOTHING;
    END LOOP;
    IF entry.kind = 'lease' THEN
        WITH over AS (
            DELETE FROM authmw_ledger_leases WHERE ctid = ANY (ARRAY(
                SELECT l.ctid FROM authmw_ledger_leases AS l WHERE l.bucket = entry.bucket AND l.expires_at <= moment
                FOR UPDATE SKIP LOCKED
            )) RETURNING amount
        )
        SELECT coalesce(sum(amount), 0) INTO freed FROM over;
        IF freed > 0 THEN
            counter.used := counter.used - freed;
            PERFORM authmw_ledger_write(entry, counter.used, moment);
        END IF;
    END IF;
    RETURN authmw_ledger_level_of(entry, counter.used, counter.full_at, counter.full_part, moment);
END $$;

-- Writes the level of a bucket whose counter is locked.
CREATE FUNCTION authmw_ledger_write(entry authmw_ledger_entry, level numeric, moment bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF entry.kind = 'rolling' THEN
        UPDATE authmw_ledger_counters AS c
        SET full_at = moment + div(level, entry.quota), full_part = mod(level, entry.quota)
        WHERE c.bucket = entry.bucket AND c.starts_at = entry.starts_at AND c.ends_at = entry.ends_at;
    ELSE
        UPDATE authmw_ledger_counters AS c SET used = level
        WHERE c.bucket = entry.bucket AND c.starts_at = entry.starts_at AND c.ends_at = entry.ends_at;
    END IF;
END $$;

-- The functions that are called from outside. `now_is` is for tests: they say what time it is.
--
-- For those above too they settle where names lead, and that no table is read from end to end: plans are made once per connection,
-- perhaps while there are few rows. And how long is waited for a lock: whoever asked may have left, and the server notices that only when it
-- answers, so that each of them would keep one of its connections for as long as somebody else keeps the lock.

CREATE FUNCTION authmw_ledger_reserve(reservation text, claims jsonb, ttl bigint, now_is bigint DEFAULT NULL) RETURNS json
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    -- Before any wait: nobody is granted what came back, or was freed, while he waited for a counter.
    moment CONSTANT bigint := coalesce(now_is, authmw_ledger_clock());
    known authmw_ledger_reservations;
    entry authmw_ledger_entry;
    entries authmw_ledger_entry[];
    level numeric;
    levels numeric[];
    balances json[] := '{}';
    refusals json[] := '{}';
    answer json;
BEGIN
    FOR entry IN SELECT * FROM authmw_ledger_entries(claims, moment) ORDER BY bucket LOOP
        IF entry.ends_at IS NULL THEN
            RETURN '"no window"';
        END IF;
        entries[entry.place] := entry;
        levels[entry.place] := authmw_ledger_level(entry, moment);
    END LOOP;
    -- Not before: a call that is repeated while the first one is at work waits for it at the counters, and then finds its answer.
    SELECT * INTO known FROM authmw_ledger_reservations WHERE id = reservation;
    IF coalesce(known.settled_at, known.expires_at) + authmw_ledger_days(1) > moment THEN
        RETURN known.answer;
    END IF;
    FOREACH entry IN ARRAY entries LOOP
        level := levels[entry.place];
        IF level + entry.amount::numeric * entry.unit > entry.capacity::numeric * entry.unit THEN
            refusals := refusals || authmw_ledger_refusal(entry, level, moment);
        END IF;
    END LOOP;
    FOREACH entry IN ARRAY entries LOOP
        level := levels[entry.place];
        IF cardinality(refusals) = 0 THEN
            level := level + entry.amount::numeric * entry.unit;
            PERFORM authmw_ledger_write(entry, level, moment);
            IF entry.kind = 'lease' THEN
                INSERT INTO authmw_ledger_leases (reservation_id, bucket, expires_at, amount)
                VALUES (reservation, entry.bucket, moment + ttl, entry.amount);
            END IF;
        END IF;
        balances := balances || authmw_ledger_balance(entry, level, moment);
    END LOOP;
    answer := json_build_object('at', moment, 'balances', balances, 'refusals', refusals);
    IF cardinality(refusals) = 0 THEN
        DELETE FROM authmw_ledger_reservations WHERE id = known.id; -- which was forgotten
        INSERT INTO authmw_ledger_reservations (id, at, expires_at, entries, answer, look_at)
        VALUES (reservation, moment, moment + ttl, entries, answer, moment + ttl + authmw_ledger_days(1));
    END IF;
    RETURN answer;
END $$;

CREATE FUNCTION authmw_ledger_settle(reservation text, actual jsonb, now_is bigint DEFAULT NULL) RETURNS json
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    most CONSTANT bigint := 9007199254740992; -- 2^53, of amounts and of moments
    moment bigint;
    known authmw_ledger_reservations;
    entry authmw_ledger_entry;
    level numeric;
    levels numeric[];
    more numeric;
    freed bigint;
    balances json[] := '{}';
    outcome json;
BEGIN
    LOOP
        SELECT * INTO known FROM authmw_ledger_reservations WHERE id = reservation FOR NO KEY UPDATE;
        moment := coalesce(now_is, authmw_ledger_clock());
        EXIT WHEN FOUND;
        -- It is void from now on. If the call that makes it is at work, this waits for its end, and then finds what it made.
        INSERT INTO authmw_ledger_reservations (id, at, expires_at, settled_at, entries, answer, settlement, look_at)
        VALUES (reservation, moment, moment, moment, '{}', '"void"', 'null', moment + authmw_ledger_days(1)) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN 'null';
        END IF;
    END LOOP;
    IF coalesce(known.settled_at, known.expires_at) + authmw_ledger_days(1) <= moment THEN
        RETURN 'null';
    ELSIF known.settled_at IS NOT NULL THEN
        RETURN known.settlement;
    END IF;
    FOR entry IN SELECT * FROM unnest(known.entries) ORDER BY bucket LOOP
        level := authmw_ledger_level(entry, moment);
        IF entry.kind = 'lease' THEN
            SELECT coalesce(sum(amount), 0) INTO freed FROM authmw_ledger_leases
            WHERE reservation_id = reservation AND bucket = entry.bucket;
            level := level - freed;
        ELSE
            more := coalesce((actual -> entry.measure)::numeric, entry.amount) - entry.amount;
            -- What a rolling bucket was taken a whole period ago has come back by itself.
            IF more > 0 OR entry.kind <> 'rolling' OR known.at + entry.unit > moment THEN
                level := greatest(0, level + more * entry.unit);
            END IF;
        END IF;
        IF (CASE entry.kind WHEN 'rolling' THEN moment + div(level, entry.quota) ELSE level END) > most THEN
            RETURN '"too much"';
        END IF;
        levels[entry.place] := level;
    END LOOP;
    -- From here on nothing fails.
    FOREACH entry IN ARRAY known.entries LOOP
        PERFORM authmw_ledger_write(entry, levels[entry.place], moment);
        balances := balances || authmw_ledger_balance(entry, levels[entry.place], moment);
    END LOOP;
    DELETE FROM authmw_ledger_leases WHERE reservation_id = reservation;
    outcome := json_build_object('at', moment, 'late', known.expires_at <= moment, 'balances', balances);
    -- What is asked again is answered with the first answers: the entries have done their work.
    UPDATE authmw_ledger_reservations SET settled_at = moment, settlement = outcome, entries = '{}' WHERE id = reservation;
    RETURN outcome;
END $$;

CREATE FUNCTION authmw_ledger_extend(ids text[], ttl bigint, now_is bigint DEFAULT NULL) RETURNS text[]
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    moment bigint;
    living text[];
BEGIN
    PERFORM FROM authmw_ledger_reservations WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
    PERFORM FROM authmw_ledger_leases WHERE reservation_id = ANY (ids) FOR NO KEY UPDATE;
    -- Not before: whatever others have freed meanwhile has expired by this clock too.
    moment := coalesce(now_is, authmw_ledger_clock());
    UPDATE authmw_ledger_leases SET expires_at = greatest(expires_at, moment + ttl)
    WHERE reservation_id = ANY (ids) AND expires_at > moment;
    WITH extended AS (
        UPDATE authmw_ledger_reservations SET expires_at = greatest(expires_at, moment + ttl)
        WHERE id = ANY (ids) AND settled_at IS NULL AND expires_at > moment
        RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO living FROM extended;
    RETURN living;
END $$;

-- Reads at one moment, and writes nothing: a standby can answer it.
CREATE FUNCTION authmw_ledger_balances(claims jsonb, now_is bigint DEFAULT NULL) RETURNS json
LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    moment CONSTANT bigint := coalesce(now_is, authmw_ledger_clock());
    found json;
BEGIN
    SELECT CASE WHEN bool_or(e.ends_at IS NULL) THEN '"no window"' ELSE coalesce(json_agg(
        authmw_ledger_balance(e, coalesce(authmw_ledger_level_of(e, c.used - over.amount, c.full_at, c.full_part, moment), 0), moment)
        ORDER BY e.place
    ), '[]') END INTO found
    FROM authmw_ledger_entries(claims, moment) AS e
    LEFT JOIN authmw_ledger_counters AS c ON c.bucket = e.bucket AND c.starts_at = e.starts_at AND c.ends_at = e.ends_at
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(l.amount), 0)::bigint FROM authmw_ledger_leases AS l
        WHERE e.kind = 'lease' AND l.bucket = e.bucket AND l.expires_at <= moment
    ) AS over (amount);
    RETURN found;
END $$;

-- Forgets and drops what can be, at most `most` of either, and returns the moment from which on there may be more. Starting there
-- the next time passes by the entries of the index that lead to rows which are gone.
CREATE FUNCTION authmw_ledger_forget(since bigint, most integer, now_is bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    moment CONSTANT bigint := coalesce(now_is, authmw_ledger_clock());
    held authmw_ledger_reservations;
    counter authmw_ledger_counters;
    entry authmw_ledger_entry;
    forget_at bigint;
BEGIN
    FOR held IN
        SELECT * FROM authmw_ledger_reservations WHERE look_at BETWEEN since AND moment
        ORDER BY look_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        forget_at := coalesce(held.settled_at, held.expires_at) + authmw_ledger_days(1);
        IF forget_at <= moment THEN
            DELETE FROM authmw_ledger_reservations WHERE id = held.id;
        ELSE
            UPDATE authmw_ledger_reservations SET look_at = forget_at WHERE id = held.id;
        END IF;
    END LOOP;
    FOR counter IN
        SELECT * FROM authmw_ledger_counters WHERE look_at BETWEEN since AND moment
        ORDER BY look_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        entry := NULL;
        entry.bucket := counter.bucket;
        entry.kind := counter.kind;
        entry.starts_at := counter.starts_at;
        entry.ends_at := counter.ends_at;
        IF (CASE counter.kind
            WHEN 'window' THEN true
            WHEN 'rolling' THEN counter.full_at < moment
            ELSE authmw_ledger_level(entry, moment) = 0
        END) THEN
            DELETE FROM authmw_ledger_counters AS c
            WHERE c.bucket = counter.bucket AND c.starts_at = counter.starts_at AND c.ends_at = counter.ends_at;
        ELSE
            -- What is used for ever is never looked at again.
            UPDATE authmw_ledger_counters AS c
            SET look_at = CASE counter.kind WHEN 'rolling' THEN counter.full_at + 1 WHEN 'lease' THEN moment + authmw_ledger_days(2) END
            WHERE c.bucket = counter.bucket AND c.starts_at = counter.starts_at AND c.ends_at = counter.ends_at;
        END IF;
    END LOOP;
    RETURN least(
        moment,
        (SELECT min(look_at) FROM authmw_ledger_reservations WHERE look_at >= since),
        (SELECT min(look_at) FROM authmw_ledger_counters WHERE look_at >= since)
    );
END $$;
