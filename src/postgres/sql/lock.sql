-- Acquires the locks of a user's sign-ins and revocations. Returns these values:
-- * whether the transaction's isolation level allows the locks;
-- * a count of the acquired locks;
-- * the sessions that have the replaced digests in this snapshot;
-- * whether a policy hides rows of the sessions table;
-- * the database's encoding;
-- * if there are session columns, whether FROM finds the user while they are null.
--
-- The locks are acquired in a separate statement. The next statement then has a newer snapshot,
-- which includes the changes of the transactions that held the locks before. Above READ COMMITTED
-- there is no newer snapshot, and no lock is acquired. The owners of the replaced sessions are
-- locked too. All locks are acquired in the order of their keys and before any row lock. Therefore
-- two sign-ins cannot deadlock. The functions of migrations/0003_revoke_sessions.sql acquire the
-- same locks. The statement needs no privilege on the users table except SELECT.
SELECT level.allowed,
       CASE
           WHEN level.allowed
           THEN (
               SELECT pg_catalog.count(pg_catalog.pg_advisory_xact_lock(locks.key))
               FROM (
                   SELECT DISTINCT :lock_key
                   FROM (
                       (:locked_user)
                       UNION ALL
                       SELECT s.user_id::pg_catalog.text
                       FROM :sessions AS s
                       WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
                   ) AS users (key)
                   ORDER BY 1
                   OFFSET 0
               ) AS locks (key)
           )
       END,
       ARRAY(
           SELECT s.id
           FROM :sessions AS s
           WHERE s.token_digest OPERATOR(pg_catalog.=) ANY (:replaced::pg_catalog.bytea[])
       ),
       pg_catalog.row_security_active(:table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid),
       pg_catalog.getdatabaseencoding()::pg_catalog.text
       :user_found
FROM (SELECT :isolation) AS level (allowed)
