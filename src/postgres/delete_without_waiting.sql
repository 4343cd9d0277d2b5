-- End sessions of several people, of whom none waits for another one's: one that somebody has locked is left.
DELETE FROM :sessions AS s
WHERE s.id OPERATOR(pg_catalog.=) ANY (ARRAY(
    SELECT free.id
    FROM :sessions AS free
    WHERE free.token_digest OPERATOR(pg_catalog.=) ANY (:digests::pg_catalog.bytea[])
    FOR UPDATE SKIP LOCKED
))
RETURNING s.token_digest, s.id
