-- Acquires the locks of a user's sign-ins and revocations. Returns these values:
-- * whether the transaction's isolation level allows the locks;
-- * a count of the acquired locks;
-- * the sessions that have the replaced digests in this snapshot;
-- * whether a policy hides rows of the sessions table;
-- * the database's encoding.
--
-- The locks are acquired in a separate statement. The next statement then has a newer snapshot,
-- which includes the changes of the transactions that held the locks before. Above READ COMMITTED
-- there is no newer snapshot, and no lock is acquired. The owners of the replaced sessions are
-- locked too. All locks are acquired in the order of their keys and before any row lock. Therefore
-- two sign-ins cannot deadlock. The key of a lock contains the oid of the table. Therefore the
-- spelling of the table's name does not matter. The statement needs no privilege on the users table
-- except SELECT.
SELECT level.allowed,
       CASE
           WHEN level.allowed
           THEN (
               SELECT pg_catalog.count(pg_catalog.pg_advisory_xact_lock(locks.key))
               FROM (
                   SELECT DISTINCT pg_catalog.hashtextextended(
                       pg_catalog.concat(
                           :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid, ' ', users.key), 0)
                   FROM (
                       (SELECT k.key::pg_catalog.text
                        FROM (SELECT :key FROM :from WHERE :key :equals :user_id LIMIT 1) AS k (key))
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
FROM (
    SELECT pg_catalog.current_setting('transaction_isolation')
           OPERATOR(pg_catalog.=) ANY ('{read committed,read uncommitted}'::pg_catalog.text[])
) AS level (allowed)
