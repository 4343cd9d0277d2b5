-- Returns the user's live sessions, at most :most. Returns none if the user may not sign in, so that
-- the sign-in fails for that reason and not because of the limit.
--
-- It is sent together with lock.sql, so the sessions that the new one replaces are not known yet.
-- The caller leaves them out.
SELECT s.id
FROM :sessions AS s
WHERE s.user_id :equals :user_id
  AND :live
  AND EXISTS (
      SELECT
      FROM :new_session LATERAL (
          SELECT FROM :from WHERE :key :equals :user_id AND CASE WHEN :key :equals :user_id THEN (:condition) END
      ) AS allowed
  )
LIMIT :most
