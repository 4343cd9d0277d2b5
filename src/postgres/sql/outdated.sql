-- Returns whether a trigger that announces sessions or users has another schema version. The first
-- argument of a trigger is its schema version.
SELECT EXISTS (
    SELECT
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
    WHERE (t.tgrelid OPERATOR(pg_catalog.=) asked.sessions
           AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce'
           OR t.tgrelid OPERATOR(pg_catalog.=) ANY (ARRAY(
                  SELECT reference.confrelid
                  FROM pg_catalog.pg_constraint AS reference
                  WHERE reference.conrelid OPERATOR(pg_catalog.=) asked.sessions))
           AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce_user')
      AND NOT t.tgisinternal
      AND pg_catalog.position(t.tgargs, '\x3200'::pg_catalog.bytea) OPERATOR(pg_catalog.<>) 1
)
FROM (SELECT :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid) AS asked (sessions)
