-- Returns one row of (text, boolean, text):
-- * the channel of sessions;
-- * whether all triggers on the sessions table are installed in this schema version;
-- * the channel of users, or null if users are not announced.
-- Fails if the table does not exist.
--
-- A trigger counts only if it is ENABLE ALWAYS. ENABLE TRIGGER ALL turns an ALWAYS trigger into an
-- ordinary trigger. Then the writes of a database session with session_replication_role = replica
-- are not announced.
SELECT pg_catalog.concat('tower_user_session_', asked.sessions),
       (
           -- The three triggers run AFTER and FOR EACH STATEMENT (bits 1 and 2 are not set). Their
           -- events are DELETE, UPDATE and TRUNCATE.
           SELECT pg_catalog.count(DISTINCT t.tgtype) OPERATOR(pg_catalog.=) 3
           FROM pg_catalog.pg_trigger AS t
           JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
           WHERE t.tgrelid OPERATOR(pg_catalog.=) asked.sessions
             AND t.tgtype OPERATOR(pg_catalog.=) ANY ('{8,16,32}'::pg_catalog.int2[])
             AND t.tgqual IS NULL
             AND t.tgenabled OPERATOR(pg_catalog.=) 'A'::pg_catalog."char"
             AND NOT t.tgisinternal
             AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce'
             AND t.tgargs OPERATOR(pg_catalog.=) '\x3200'::pg_catalog.bytea
       ),
       (
           -- The trigger runs AFTER UPDATE, for each statement or for each row. Its argument is the
           -- column that sessions.user_id references. Both columns must have the same hash for the
           -- same key.
           SELECT pg_catalog.concat('tower_user_session_users_', reference.confrelid)
           FROM pg_catalog.pg_constraint AS reference
           JOIN pg_catalog.pg_attribute AS user_id
             ON user_id.attrelid OPERATOR(pg_catalog.=) reference.conrelid
            AND user_id.attname OPERATOR(pg_catalog.=) 'user_id'
           JOIN pg_catalog.pg_attribute AS key
             ON key.attrelid OPERATOR(pg_catalog.=) reference.confrelid
            AND key.attnum OPERATOR(pg_catalog.=) reference.confkey[1]
           JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) reference.confrelid
           JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
           WHERE reference.conrelid OPERATOR(pg_catalog.=) asked.sessions
             AND reference.contype OPERATOR(pg_catalog.=) 'f'
             AND reference.conkey OPERATOR(pg_catalog.=) ARRAY[user_id.attnum]
             AND user_id.attcollation OPERATOR(pg_catalog.=) key.attcollation
             AND (user_id.atttypid OPERATOR(pg_catalog.=) key.atttypid
                  OR ARRAY[user_id.atttypid, key.atttypid] OPERATOR(pg_catalog.<@) '{20,21,23}'::pg_catalog.oid[]
                  OR ARRAY[user_id.atttypid, key.atttypid] OPERATOR(pg_catalog.<@) '{25,1043}'::pg_catalog.oid[])
             AND (t.tgtype OPERATOR(pg_catalog.=) 16 AND t.tgqual IS NULL
                  OR t.tgtype OPERATOR(pg_catalog.=) 17)
             AND t.tgenabled OPERATOR(pg_catalog.=) 'A'::pg_catalog."char"
             AND NOT t.tgisinternal
             AND f.proname OPERATOR(pg_catalog.=) 'tower_user_session_announce_user'
             AND pg_catalog.position(
                     t.tgargs,
                     '\x3200'::pg_catalog.bytea
                     OPERATOR(pg_catalog.||) pg_catalog.convert_to(
                         key.attname::pg_catalog.text, pg_catalog.getdatabaseencoding())
                     OPERATOR(pg_catalog.||) '\x00'::pg_catalog.bytea)
                 OPERATOR(pg_catalog.=) 1
           LIMIT 1
       )
FROM (SELECT :table_name::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid) AS asked (sessions)
