-- Replaces the digest of a live session of this user. The old token is invalid after the
-- transaction has committed.
UPDATE :sessions AS s
SET token_digest = :digest,
    authenticated_at = pg_catalog.now(),
    last_seen_at = pg_catalog.now()
WHERE s.id OPERATOR(pg_catalog.=) (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
      AND s.user_id :equals :user_id
      AND :live
      AND :user_allowed
    ORDER BY s.created_at DESC
    LIMIT 1
    FOR UPDATE
)
RETURNING pg_catalog.now(), s.id, s.created_at, s.authenticated_at, s.last_seen_at, :ends_at, s.remembered
