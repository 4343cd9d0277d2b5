-- Delete the sessions that are over from some pages of the table. By place in the table, so that no index is
-- needed that would make other writes dearer. Rows that another transaction has locked stay until the next round.
--
-- Sessions whose absolute limit lies ahead are announced when they are deleted. A statement deletes at most as many
-- of them as one announcement can name; otherwise every cache would be emptied. Then the same pages are due again.
WITH mine AS MATERIALIZED (
    -- One process at a time.
    SELECT pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended(
            pg_catalog.concat(
                'clean up ', :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid), 0)) AS turn
), expired AS (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.ctid OPERATOR(pg_catalog.>=) pg_catalog.format('(%s,0)', :page::pg_catalog.int8)::pg_catalog.tid
      AND s.ctid OPERATOR(pg_catalog.<) pg_catalog.format('(%s,0)', :next_page::pg_catalog.int8)::pg_catalog.tid
      AND s.expires_at OPERATOR(pg_catalog.<=) pg_catalog.now()
      AND (SELECT turn FROM mine)
    FOR UPDATE SKIP LOCKED
), idle AS (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.ctid OPERATOR(pg_catalog.>=) pg_catalog.format('(%s,0)', :page::pg_catalog.int8)::pg_catalog.tid
      AND s.ctid OPERATOR(pg_catalog.<) pg_catalog.format('(%s,0)', :next_page::pg_catalog.int8)::pg_catalog.tid
      AND s.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()
      AND NOT (:live)
      AND (SELECT turn FROM mine)
    LIMIT :most
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM :sessions AS s
    USING (SELECT expired.id FROM expired UNION ALL SELECT idle.id FROM idle) AS over
    WHERE s.id OPERATOR(pg_catalog.=) over.id
    RETURNING s.expires_at OPERATOR(pg_catalog.>) pg_catalog.now() AS announced
)
SELECT (SELECT pg_catalog.count(*) FROM deleted),
       (SELECT turn FROM mine),
       pg_catalog.pg_relation_size(:table_name::pg_catalog.regclass)
           OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8,
       (SELECT pg_catalog.count(*) FROM deleted WHERE deleted.announced)
