-- Ends the sessions that have these digests in the statement's snapshot. Returns for each session
-- whether its row was not locked, and whether the row has been deleted.
--
-- A row that another transaction has locked is skipped. Therefore no connection waits for a lock.
-- Rows are deleted by id, because a concurrent rotation changes the digest.
WITH seen AS MATERIALIZED (
    SELECT s.token_digest, s.id
    FROM :sessions AS s
    WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:digests::pg_catalog.bytea[])
), free AS MATERIALIZED (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT seen.id FROM seen))
    FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT free.id FROM free))
    RETURNING s.id
)
SELECT seen.token_digest, seen.id,
       EXISTS (SELECT FROM free WHERE free.id OPERATOR(pg_catalog.=) seen.id),
       EXISTS (SELECT FROM ended WHERE ended.id OPERATOR(pg_catalog.=) seen.id)
FROM seen
