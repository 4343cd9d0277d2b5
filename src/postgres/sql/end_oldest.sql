-- Ends the user's oldest sessions. Afterwards the user's live sessions, with the new session, do
-- not exceed the limit. The new session is never deleted.
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
