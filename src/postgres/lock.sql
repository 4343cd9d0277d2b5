-- Sign-ins and revocations of one user take turns. In a statement of its own, before the one whose
-- snapshot must see what the other has done. It needs no right on the users' table.
SELECT pg_catalog.pg_advisory_xact_lock(
    pg_catalog.hashtextextended(
        pg_catalog.concat(:table_name::pg_catalog.text, ' ', k.key::pg_catalog.text), 0))
FROM (SELECT :key FROM :from WHERE :key = :user_id LIMIT 1) AS k (key)
