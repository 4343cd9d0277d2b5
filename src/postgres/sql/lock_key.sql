-- The key of the advisory lock of the user users.key. It contains the oid of the sessions table, so
-- that the spelling of the table's name does not matter.
pg_catalog.hashtextextended(
    pg_catalog.concat(:table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid, ' ', users.key), 0)
