-- Replaces the digest of a live session of this user. The old token is invalid after the
-- transaction has committed.
-- Returns no row if there is no such session. If a trigger suppressed the update, the last column
-- raises the error of none_left.sql.
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
      AND s.user_id :equals :user_id
      AND :live
      AND :user_allowed
    ORDER BY s.created_at DESC
    LIMIT 1
    FOR UPDATE
), rotated AS (
    UPDATE :sessions AS s
    SET token_digest = :digest,
        authenticated_at = pg_catalog.now(),
        last_seen_at = pg_catalog.now()
        :assignments
    WHERE s.id OPERATOR(pg_catalog.=) (SELECT found.id FROM found)
    RETURNING s.id, s.created_at, s.authenticated_at, s.last_seen_at, :ends_at AS ends_at, s.remembered
)
SELECT pg_catalog.now(), rotated.id, rotated.created_at, rotated.authenticated_at,
       rotated.last_seen_at, rotated.ends_at, rotated.remembered,
       pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN rotated.id IS NULL THEN 0 ELSE 1 END)
FROM found
LEFT JOIN rotated ON true
