-- How many live sessions the user has, but for those that the new one replaces. None where the user may not
-- be signed in: then that is what a sign-in fails with.
SELECT pg_catalog.count(*)
FROM :sessions AS s
WHERE s.user_id :equals :user_id
  AND s.id OPERATOR(pg_catalog.<>) ALL (:replaced_ids::pg_catalog.uuid[])
  AND :live
  AND EXISTS (SELECT FROM :from WHERE :key :equals :user_id AND (:condition))
