-- Ends the user's oldest sessions, so that the number of live sessions with the new one does not
-- exceed the limit. The new session is never deleted.
DELETE FROM :sessions AS s
WHERE s.id OPERATOR(pg_catalog.=) ANY (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.user_id :equals :user_id
      AND s.token_digest OPERATOR(pg_catalog.<>) ALL (:kept::pg_catalog.bytea[])
      AND :live
    ORDER BY s.created_at DESC, s.id
    OFFSET :others
)
RETURNING s.id
