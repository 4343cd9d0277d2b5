-- Returns one row with the properties of the sessions table, its missing functions, and the missing
-- privileges of the current role. Fails if the table does not exist.
WITH asked AS (
    SELECT :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid AS sessions
), expected (name, type, writes) AS (
    VALUES
        ('id', 'uuid', ''),
        ('token_digest', 'bytea', 'INSERT UPDATE'),
        ('user_id', NULL, 'INSERT'),
        ('created_at', 'timestamp with time zone', ''),
        ('authenticated_at', 'timestamp with time zone', 'UPDATE'),
        ('last_seen_at', 'timestamp with time zone', 'UPDATE'),
        ('expires_at', 'timestamp with time zone', 'INSERT'),
        ('remembered', 'boolean', 'INSERT'),
        ('user_agent', NULL, 'INSERT'),
        ('ip', 'inet', 'INSERT')
), columns AS (
    SELECT expected.name, expected.type AS expected_type, expected.writes, a.attnum,
           pg_catalog.format_type(a.atttypid, NULL) AS type
    FROM asked
    CROSS JOIN expected
    LEFT JOIN pg_catalog.pg_attribute AS a
      ON a.attrelid OPERATOR(pg_catalog.=) asked.sessions
     AND a.attname OPERATOR(pg_catalog.=) expected.name::pg_catalog.name
     AND NOT a.attisdropped
), rights (name, missing) AS (
    SELECT 'DELETE', NOT pg_catalog.has_table_privilege(asked.sessions, 'DELETE')
    FROM asked
    UNION ALL
    SELECT pg_catalog.format('%s (%I)', kind.name, columns.name),
           NOT pg_catalog.has_column_privilege(asked.sessions, columns.attnum, kind.name)
    FROM asked
    CROSS JOIN columns
    CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS kind (name)
    WHERE columns.attnum IS NOT NULL
      AND (kind.name OPERATOR(pg_catalog.=) 'SELECT'
           OR pg_catalog.strpos(columns.writes, kind.name) OPERATOR(pg_catalog.>) 0)
), reference AS (
    SELECT r.confrelid, key.attcollation, pg_catalog.format_type(key.atttypid, NULL) AS type
    FROM asked
    JOIN columns ON columns.name OPERATOR(pg_catalog.=) 'user_id'
    JOIN pg_catalog.pg_constraint AS r
      ON r.conrelid OPERATOR(pg_catalog.=) asked.sessions
     AND r.contype OPERATOR(pg_catalog.=) 'f'
     AND r.conkey OPERATOR(pg_catalog.=) ARRAY[columns.attnum]
    JOIN pg_catalog.pg_attribute AS key
      ON key.attrelid OPERATOR(pg_catalog.=) r.confrelid
     AND key.attnum OPERATOR(pg_catalog.=) r.confkey[1]
    LIMIT 1
), functions (suffix, parameters) AS (
    -- The functions of 0003_revoke_sessions.sql.
    VALUES ('_revoke', 2), ('_revoke_all', 1), ('_revoke_everyone', 0), ('_revoke_others', 2)
)
SELECT c.relkind::pg_catalog.text AS kind,
       c.relpersistence::pg_catalog.text AS persistence,
       EXISTS (
           SELECT FROM pg_catalog.pg_inherits AS i
           WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid
       ) AS has_children,
       (
           SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', columns.name, columns.expected_type), ', ')
           FROM columns
           WHERE columns.attnum IS NULL
              OR columns.type OPERATOR(pg_catalog.<>) columns.expected_type
       ) AS unfit_columns,
       EXISTS (
           SELECT
           FROM pg_catalog.pg_index AS i
           JOIN columns ON columns.name OPERATOR(pg_catalog.=) 'token_digest'
           WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid
             AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
             AND i.indpred IS NULL
             AND i.indnkeyatts OPERATOR(pg_catalog.=) 1::pg_catalog.int2
             AND i.indkey[0] OPERATOR(pg_catalog.=) columns.attnum
       ) AS digest_is_unique,
       (
           SELECT pg_catalog.string_agg(rights.name, ', ' ORDER BY rights.name)
           FROM rights
           WHERE rights.missing
       ) AS missing_rights,
       ARRAY(
           SELECT pg_catalog.format('%I.%I', n.nspname, pg_catalog.concat(c.relname, functions.suffix))
           FROM functions
           JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
           WHERE NOT EXISTS (
               SELECT
               FROM pg_catalog.pg_proc AS f
               WHERE f.pronamespace OPERATOR(pg_catalog.=) n.oid
                 AND f.proname OPERATOR(pg_catalog.=)
                     pg_catalog.concat(c.relname, functions.suffix)::pg_catalog.name
                 AND f.pronargs OPERATOR(pg_catalog.=) functions.parameters
                 AND (functions.parameters OPERATOR(pg_catalog.<) 1
                      OR f.proargtypes[0] OPERATOR(pg_catalog.=) user_id.atttypid)
                 AND (functions.parameters OPERATOR(pg_catalog.<) 2
                      OR f.proargtypes[1] OPERATOR(pg_catalog.=) 2950::pg_catalog.oid)
                 AND NOT f.prosecdef
                 AND f.proconfig OPERATOR(pg_catalog.@>)
                     ARRAY['search_path=pg_catalog, pg_temp', 'row_security=off']
                 -- The version, and the table that the function was created for.
                 AND pg_catalog.strpos(f.prosrc, '-- tower-user-session, schema version 3') OPERATOR(pg_catalog.>) 0
                 AND pg_catalog.strpos(f.prosrc, pg_catalog.format('FROM %I.%I AS s', n.nspname, c.relname))
                     OPERATOR(pg_catalog.>) 0
           )
           ORDER BY 1
       ) AS missing_functions,
       pg_catalog.row_security_active(c.oid) AS rows_are_hidden,
       (SELECT reference.confrelid::pg_catalog.regclass::pg_catalog.text FROM reference) AS users,
       coalesce((SELECT pg_catalog.row_security_active(reference.confrelid) FROM reference), false) AS users_are_hidden,
       -- All deterministic collations have the same equality.
       EXISTS (
           SELECT
           FROM reference
           JOIN pg_catalog.pg_collation AS l
             ON l.oid OPERATOR(pg_catalog.=) ANY (ARRAY[user_id.attcollation, reference.attcollation])
           WHERE user_id.attcollation OPERATOR(pg_catalog.<>) reference.attcollation
             AND NOT l.collisdeterministic
       ) AS collations_differ,
       pg_catalog.format_type(user_id.atttypid, NULL) AS user_id_type,
       (SELECT reference.type FROM reference) AS key_type,
       pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'on' AS read_only,
       c.oid::pg_catalog.regclass::pg_catalog.text AS name,
       CURRENT_USER::pg_catalog.text AS role
FROM asked
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) asked.sessions
LEFT JOIN pg_catalog.pg_attribute AS user_id
  ON user_id.attrelid OPERATOR(pg_catalog.=) c.oid
 AND user_id.attname OPERATOR(pg_catalog.=) 'user_id'
 AND NOT user_id.attisdropped
