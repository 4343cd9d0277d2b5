-- Ends sessions. A digest without a session is no error.
--
-- The rows are those that the snapshot saw. A session whose digest is being rotated ends too: the DELETE waits
-- for the row, and compares the id, which a rotation does not change.
DELETE FROM :sessions AS s
USING (
    SELECT seen.id, seen.token_digest
    FROM :sessions AS seen
    WHERE seen.token_digest OPERATOR(pg_catalog.=) ANY (:digests::pg_catalog.bytea[])
    OFFSET 0
) AS presented
WHERE s.id OPERATOR(pg_catalog.=) presented.id
RETURNING presented.token_digest, s.id
