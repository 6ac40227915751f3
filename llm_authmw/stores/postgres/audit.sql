-- The audit trail, and the sums of use. What an entry is found by, and what is summed up, is decided in llm_authmw/stores/trail/.
--
-- Whoever writes holds one lock (audit lock, see `authmw_audit_lock`): so positions become visible in their order, and who reads on from
-- one misses nothing; and what is counted is counted once. Each call is one round trip, so nobody holds it while he is not there.

-- Whoever calls the functions, with whatever search path: they use what stands beside them.
SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true);

-- Entries are in the order in which they came, of all tenants together: whoever runs the proxy reads them, and a chain holds those of
-- all tenants. Sums begin with the tenant.
CREATE TABLE authmw_audit_entries (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    writer text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    time bigint NOT NULL, -- microseconds since 1970
    kind text COLLATE "C" NOT NULL,
    tenant text COLLATE "C",
    realm text COLLATE "C",
    outcome text COLLATE "C",
    hash text COLLATE "C" NOT NULL,
    sealed text COLLATE "C" NOT NULL, -- not json: what was hashed is every byte of it
    person text COLLATE "C", -- NULL once it is forgotten
    terms text[] COLLATE "C" NOT NULL, -- what it has rows for in the table of terms
    personal_terms text[] COLLATE "C" NOT NULL, -- the same, of the person
    UNIQUE (writer, sequence)
);
CREATE INDEX authmw_audit_entries_by_time ON authmw_audit_entries (time);
CREATE INDEX authmw_audit_entries_by_tenant ON authmw_audit_entries (tenant, position);
CREATE INDEX authmw_audit_entries_by_kind ON authmw_audit_entries (kind, position) WHERE kind NOT IN ('request', 'intent');
CREATE INDEX authmw_audit_entries_by_outcome ON authmw_audit_entries (outcome, position) WHERE outcome IN ('denied', 'failed');

CREATE TABLE authmw_audit_terms (
    term text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (term, position)
);

-- A sum is found by digests: names are longer than an index takes.
CREATE TABLE authmw_usage_sums (
    tenant text COLLATE "C" NOT NULL,
    day bigint NOT NULL, -- since 1970, in UTC
    holder bytea NOT NULL, -- of key, realm, user, team and org
    combination bytea NOT NULL, -- of all of it
    key text COLLATE "C" NOT NULL, -- here and below, the empty text is nothing
    realm text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    team text COLLATE "C" NOT NULL,
    org text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    extra text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    denied bigint NOT NULL,
    failed bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost bigint NOT NULL, -- nano-dollars
    latency jsonb NOT NULL, -- counts by bucket
    first_byte jsonb NOT NULL,
    PRIMARY KEY (tenant, day, holder, combination)
) WITH (fillfactor = 70);

CREATE FUNCTION authmw_audit_lock() RETURNS void LANGUAGE sql VOLATILE
RETURN pg_advisory_xact_lock(1635087464, 3);

CREATE FUNCTION authmw_usage_histogram(one jsonb, other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT coalesce(jsonb_object_agg(bucket, found), '{}') FROM (
        SELECT bucket, sum(number::bigint) AS found
        FROM (SELECT * FROM jsonb_each_text(one) UNION ALL SELECT * FROM jsonb_each_text(other)) AS counts (bucket, number)
        GROUP BY bucket
    ) AS summed;
END;

-- Adds one row to the sums. A sum grows no further than 2^62.
CREATE FUNCTION authmw_usage_add(one authmw_usage_sums) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO authmw_usage_sums AS s SELECT one.*
    ON CONFLICT (tenant, day, holder, combination) DO UPDATE SET
        requests = least(s.requests + excluded.requests, 4611686018427387904),
        denied = least(s.denied + excluded.denied, 4611686018427387904),
        failed = least(s.failed + excluded.failed, 4611686018427387904),
        input_tokens = least(s.input_tokens + excluded.input_tokens, 4611686018427387904),
        output_tokens = least(s.output_tokens + excluded.output_tokens, 4611686018427387904),
        cost = least(s.cost + excluded.cost, 4611686018427387904),
        latency = authmw_usage_histogram(s.latency, excluded.latency),
        first_byte = authmw_usage_histogram(s.first_byte, excluded.first_byte);
END;

CREATE FUNCTION authmw_usage_has(one authmw_usage_sums) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM authmw_usage_sums AS s
    WHERE (s.tenant, s.day, s.holder, s.combination) = (one.tenant, one.day, one.holder, one.combination)
);

-- Adds what was used, each to the first of its places that is there or for which there is room. The last one always has room.
CREATE FUNCTION authmw_usage_count(used jsonb, of_holder bigint, of_day bigint) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    places jsonb;
    place authmw_usage_sums;
    chosen integer;
BEGIN
    FOR places IN SELECT value FROM jsonb_array_elements(used) LOOP
        chosen := 0;
        place := jsonb_populate_record(NULL::authmw_usage_sums, places -> 0);
        IF NOT authmw_usage_has(place) THEN
            IF of_holder <= (SELECT count(*) FROM authmw_usage_sums AS s
                    WHERE s.tenant = place.tenant AND s.day = place.day AND s.holder = place.holder) THEN
                chosen := 1;
                place := jsonb_populate_record(NULL::authmw_usage_sums, places -> 1);
            END IF;
            IF (chosen = 0 OR NOT authmw_usage_has(place))
                    AND of_day <= (SELECT count(*) FROM authmw_usage_sums AS s WHERE s.tenant = place.tenant AND s.day = place.day) THEN
                place := jsonb_populate_record(NULL::authmw_usage_sums, places -> 2);
            END IF;
        END IF;
        PERFORM authmw_usage_add(place);
    END LOOP;
END;
$$;

-- Keeps entries, and adds what was used to the sums. Where one of them is there already nothing is done, and those that are there are
-- returned.
CREATE FUNCTION authmw_audit_append(
    writers text[], sequences bigint[], times bigint[], kinds text[], tenants text[], realms text[], outcomes text[], hashes text[],
    seals text[], persons text[], all_terms jsonb, all_personal_terms jsonb, used jsonb, of_holder bigint, of_day bigint
) RETURNS jsonb LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    present jsonb;
BEGIN
    PERFORM authmw_audit_lock();
    SELECT jsonb_agg(jsonb_build_array(e.writer, e.sequence)) INTO present
    FROM unnest(writers, sequences) AS n (writer, sequence) JOIN authmw_audit_entries AS e USING (writer, sequence);
    IF present IS NOT NULL THEN
        RETURN present;
    END IF;
    WITH new AS (
        INSERT INTO authmw_audit_entries (
            writer, sequence, time, kind, tenant, realm, outcome, hash, sealed, person, terms, personal_terms
        )
        SELECT
            writer, sequence, time, kind, tenant, realm, outcome, hash, sealed, person,
            ARRAY(SELECT jsonb_array_elements_text(all_terms -> (place - 1)::integer)),
            ARRAY(SELECT jsonb_array_elements_text(all_personal_terms -> (place - 1)::integer))
        FROM unnest(writers, sequences, times, kinds, tenants, realms, outcomes, hashes, seals, persons) WITH ORDINALITY
            AS given (writer, sequence, time, kind, tenant, realm, outcome, hash, sealed, person, place)
        ORDER BY place
        RETURNING position, terms || personal_terms AS terms
    )
    INSERT INTO authmw_audit_terms SELECT DISTINCT term, position FROM new CROSS JOIN unnest(terms) AS found (term);
    PERFORM authmw_usage_count(used, of_holder, of_day);
    RETURN NULL;
END;
$$;

-- Forgets the person in some of the entries that are his, and returns in how many: none where there are no more.
CREATE FUNCTION authmw_audit_forget(of_tenant text, user_term text, end_user_term text, of_realm text, most bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    found bigint[];
BEGIN
    PERFORM authmw_audit_lock();
    found := ARRAY(
        SELECT DISTINCT e.position FROM authmw_audit_terms AS t JOIN authmw_audit_entries AS e USING (position)
        WHERE t.term IN (user_term, end_user_term) AND e.tenant = of_tenant
            AND (t.term = end_user_term OR of_realm IS NULL OR e.realm = of_realm)
        LIMIT most
    );
    DELETE FROM authmw_audit_terms AS t USING authmw_audit_entries AS e
    WHERE e.position = ANY (found) AND t.position = e.position AND t.term = ANY (e.personal_terms);
    UPDATE authmw_audit_entries SET person = NULL, personal_terms = '{}' WHERE position = ANY (found);
    RETURN cardinality(found);
END;
$$;

-- Removes some of a writer's oldest entries, and returns how many: none where there are no more before the end.
CREATE FUNCTION authmw_audit_remove(of_writer text, until bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY INVOKER SET search_path FROM CURRENT SET enable_seqscan = off SET lock_timeout = '5s' AS $$
DECLARE
    found bigint[];
BEGIN
    PERFORM authmw_audit_lock();
    found := ARRAY(
        SELECT position FROM authmw_audit_entries WHERE writer = of_writer AND sequence < until ORDER BY sequence LIMIT most
    );
    DELETE FROM authmw_audit_terms AS t USING authmw_audit_entries AS e
    WHERE e.position = ANY (found) AND t.position = e.position AND t.term = ANY (e.terms || e.personal_terms);
    DELETE FROM authmw_audit_entries WHERE position = ANY (found);
    RETURN cardinality(found);
END;
$$;
