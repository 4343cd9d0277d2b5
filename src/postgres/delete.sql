-- End sessions. One that is not there is no error.
DELETE FROM :sessions AS s
WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:digests::pg_catalog.bytea[])
RETURNING s.token_digest, s.id
