-- Deletes expired and idle sessions from a range of pages of the table. The rows are addressed by
-- page. This needs no index, and an index would slow down other writes. Rows that another
-- transaction has locked stay until the next round.
--
-- An idle session has reached the idle limit but not the absolute limit. Its deletion is announced.
-- One statement deletes at most as many idle sessions as one announcement can name. A longer
-- announcement would clear every cache. If the maximum is reached, the caller processes the same
-- pages again.
WITH mine AS MATERIALIZED (
    -- Only one process cleans up at a time.
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
