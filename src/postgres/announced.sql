-- Where sessions that ended or changed are announced; whether all of them are; and whether so are those whose
-- user's row changed. One row, of (text, boolean, boolean). No such table is an error.
SELECT pg_catalog.concat('tower_user_session_', asked.sessions),
       (
           -- After each statement (neither 1, for each row, nor 2, before): DELETE, UPDATE, TRUNCATE.
           SELECT pg_catalog.count(DISTINCT t.tgtype) OPERATOR(pg_catalog.=) 3
           FROM pg_catalog.pg_trigger AS t
           JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
           WHERE t.tgrelid OPERATOR(pg_catalog.=) asked.sessions
             AND t.tgtype OPERATOR(pg_catalog.=) ANY ('{8,16,32}'::pg_catalog.int2[])
             AND t.tgqual IS NULL
             AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog."char"[])
             AND NOT t.tgisinternal
             AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce'
       ),
       EXISTS (
           SELECT
           FROM pg_catalog.pg_constraint AS reference
           JOIN pg_catalog.pg_attribute AS user_id
             ON user_id.attrelid OPERATOR(pg_catalog.=) reference.conrelid
            AND user_id.attname OPERATOR(pg_catalog.=) 'user_id'
           JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) reference.confrelid
           JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
           WHERE reference.conrelid OPERATOR(pg_catalog.=) asked.sessions
             AND reference.contype OPERATOR(pg_catalog.=) 'f'
             AND reference.conkey OPERATOR(pg_catalog.=) ARRAY[user_id.attnum]
             AND t.tgtype OPERATOR(pg_catalog.=) 16
             AND t.tgqual IS NULL
             AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog."char"[])
             AND NOT t.tgisinternal
             AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce_user'
       )
FROM (SELECT :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid) AS asked (sessions)
