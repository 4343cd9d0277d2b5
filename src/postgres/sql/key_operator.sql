-- Returns the operator of the foreign key, which compares the users' key with sessions.user_id.
-- Returns no row if there is no foreign key. A statement with this operator does not depend on the
-- search_path.
SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
FROM pg_catalog.pg_constraint AS reference
JOIN pg_catalog.pg_attribute AS user_id
  ON user_id.attrelid OPERATOR(pg_catalog.=) reference.conrelid
 AND user_id.attname OPERATOR(pg_catalog.=) 'user_id'
JOIN pg_catalog.pg_operator AS o ON o.oid OPERATOR(pg_catalog.=) reference.conpfeqop[1]
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
WHERE reference.conrelid OPERATOR(pg_catalog.=) :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid
  AND reference.contype OPERATOR(pg_catalog.=) 'f'
  AND reference.conkey OPERATOR(pg_catalog.=) ARRAY[user_id.attnum]
LIMIT 1
