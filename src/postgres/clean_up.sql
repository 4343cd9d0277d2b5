-- Delete the sessions that are over from some pages of the table. By place in the table, so that no index is
-- needed that would make other writes dearer. What somebody has locked is left for the next time.
WITH mine AS MATERIALIZED (
    -- One process at a time.
    SELECT pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended(
            pg_catalog.concat(
                'clean up ', :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid), 0)) AS turn
), over AS (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.ctid OPERATOR(pg_catalog.>=) pg_catalog.format('(%s,0)', :page::pg_catalog.int8)::pg_catalog.tid
      AND s.ctid OPERATOR(pg_catalog.<) pg_catalog.format('(%s,0)', :next_page::pg_catalog.int8)::pg_catalog.tid
      AND NOT (:live)
      AND (SELECT turn FROM mine)
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM :sessions AS s
    USING over
    WHERE s.id OPERATOR(pg_catalog.=) over.id
    RETURNING s.id
)
SELECT (SELECT pg_catalog.count(*) FROM deleted),
       (SELECT turn FROM mine),
       pg_catalog.pg_relation_size(:table_name::pg_catalog.regclass)
           OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8
