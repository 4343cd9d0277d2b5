-- Fails if the table still contains a session that revoke_everyone_where.sql should have deleted. See
-- none_left.sql.
SELECT pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN EXISTS (
    SELECT
    FROM :sessions AS s
    WHERE true
      :matching
) THEN 0 ELSE 1 END)
