-- How many live sessions the user has, but for those that the new one replaces.
SELECT pg_catalog.count(*)
FROM :sessions AS s
WHERE s.user_id = :user_id
  AND s.token_digest OPERATOR(pg_catalog.<>) ALL (:replaced::pg_catalog.bytea[])
  AND :live
