-- Returns the number of the user's live sessions. Sessions that the new session replaces are not
-- counted. Returns 0 if the user may not sign in. Then the sign-in fails for that reason, not
-- because of the limit.
SELECT pg_catalog.count(*)
FROM :sessions AS s
WHERE s.user_id :equals :user_id
  AND s.id OPERATOR(pg_catalog.<>) ALL (:replaced_ids::pg_catalog.uuid[])
  AND :live
  AND EXISTS (SELECT FROM :from WHERE :key :equals :user_id AND CASE WHEN :key :equals :user_id THEN (:condition) END)
