-- How many live sessions the user has, but for those that the new one replaces. None where the user may not
-- be signed in: then that is what a sign-in fails with.
SELECT pg_catalog.count(*)
FROM :sessions AS s
WHERE s.user_id = :user_id
  AND s.token_digest OPERATOR(pg_catalog.<>) ALL (:replaced::pg_catalog.bytea[])
  AND :live
  AND EXISTS (SELECT FROM :from WHERE :key = :user_id AND (:condition))
