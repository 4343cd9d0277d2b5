-- Ends these sessions, whose rows were locked, and waits for the locks. Returns each session that
-- still existed, and whether the session has been deleted.
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) ANY (:ids::pg_catalog.uuid[])
    ORDER BY s.id
    FOR UPDATE
), ended AS (
    DELETE FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT found.id FROM found))
    RETURNING s.id
)
SELECT found.id,
       EXISTS (SELECT FROM ended WHERE ended.id OPERATOR(pg_catalog.=) found.id)
FROM found
