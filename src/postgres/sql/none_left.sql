-- Fails if the table still contains a session that revoke.sql should have deleted: a trigger or a
-- rule suppressed the deletion. It is a separate statement, because its snapshot must not contain
-- the sessions that another transaction has deleted.
--
-- COMMIT is sent together with this statement, so the statement raises an error. SQL has no function
-- that raises an error. width_bucket rejects a count of 0 with an SQLSTATE (2201G) that has no other
-- cause in the statements of the store.
SELECT pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN (:revocable) THEN 0 ELSE 1 END)
