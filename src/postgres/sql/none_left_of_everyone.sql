-- Fails if the table still contains a session, which revoke_everyone.sql should have deleted. See
-- none_left.sql.
SELECT pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN (:any_session) THEN 0 ELSE 1 END)
