-- Ends the user's oldest sessions. Afterwards the user's live sessions, with the new session, do
-- not exceed the limit. The new session is never deleted.
-- Without the new session, nothing changes: this statement is sent before the result of insert.sql
-- is known.
DELETE FROM :sessions AS s
WHERE s.id OPERATOR(pg_catalog.=) ANY (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.user_id :equals :user_id
      AND s.token_digest OPERATOR(pg_catalog.<>) :digest
      AND :live
    ORDER BY s.created_at DESC, s.id
    OFFSET :others
)
  AND EXISTS (
    SELECT
    FROM :sessions AS new_session
    WHERE new_session.token_digest OPERATOR(pg_catalog.=) :digest
      AND new_session.user_id :equals :user_id
)
RETURNING s.id
