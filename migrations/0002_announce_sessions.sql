-- Optional: announces, with NOTIFY, the sessions that end or change, so that a process which keeps answers in
-- memory drops them. Whoever did it: a DELETE typed into psql counts, and so does one that cascades.
--
-- Where the tables are is said by the settings of 0001, and there is one more. Set them before this runs:
--   tower_user_session.sessions_table  by default sessions; it must exist
--   tower_user_session.users_table     by default users
--   tower_user_session.announce_users  by default off. on: also when the user's row changes
-- Where everything is in place it does nothing, and waits for nothing.
--
-- The channel is tower_user_session_ and the oid of the sessions' table. The payload is one of
--   ended <id> <id> ...    these sessions were deleted
--   changed <id> <id> ...  these may still live, but not as they were: token, user, limits or times
--   everything             any session may have ended or changed
-- with ids as 32 hexadecimal digits. A statement announces at most once, when it is committed. Not announced:
-- sessions that begin, that are used (last_seen_at moves on), and those deleted after their absolute limit.
--
-- To take it back, with the schema of the sessions' table. The triggers go with their functions:
--   DROP FUNCTION IF EXISTS tower_user_session_announce(), tower_user_session_announce_user() CASCADE;
DO $migration$
DECLARE
    sessions regclass := to_regclass(
        coalesce(nullif(current_setting('tower_user_session.sessions_table', true), ''), 'sessions'));
    users text := coalesce(nullif(current_setting('tower_user_session.users_table', true), ''), 'users');
    announce_users boolean :=
        coalesce(nullif(current_setting('tower_user_session.announce_users', true), ''), 'off')::boolean;

    -- After each statement on the sessions' table. Every name is qualified, because whoever writes brings a
    -- search_path of their own, and to set another one here would make every touch and sign-in dearer.
    of_sessions CONSTANT text := $function$
#variable_conflict use_variable -- A column that the application adds may be called like one.
DECLARE
    channel CONSTANT pg_catalog.text := pg_catalog.concat('tower_user_session_', TG_RELID);
    -- A payload has at most 7999 bytes, and this is what fits.
    most CONSTANT pg_catalog.int8 := 242;
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        PERFORM pg_catalog.pg_notify(channel, CASE
            WHEN pg_catalog.count(*) OPERATOR(pg_catalog.>) most THEN 'everything'
            ELSE pg_catalog.concat('ended ', pg_catalog.string_agg(ended.id, ' '))
        END)
        FROM (
            SELECT pg_catalog.encode(pg_catalog.uuid_send(o.id), 'hex')
            FROM old_rows AS o
            WHERE o.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()
            LIMIT most OPERATOR(pg_catalog.+) 1
        ) AS ended (id)
        HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        -- A full join, for a row whose id has changed: both are named. It is also never a nested loop, be
        -- the plan as old as it may. As records, values are compared byte by byte, whatever the type of the
        -- key is and wherever its operators are.
        PERFORM pg_catalog.pg_notify(channel, CASE
            WHEN pg_catalog.count(*) OPERATOR(pg_catalog.>) most THEN 'everything'
            ELSE pg_catalog.concat('changed ', pg_catalog.string_agg(changed.id, ' '))
        END)
        FROM (
            SELECT pg_catalog.encode(pg_catalog.uuid_send(coalesce(o.id, n.id)), 'hex')
            FROM old_rows AS o
            FULL JOIN new_rows AS n ON n.id OPERATOR(pg_catalog.=) o.id
            WHERE o.id IS NULL
               OR n.id IS NULL
               OR n.last_seen_at OPERATOR(pg_catalog.<) o.last_seen_at
               OR ROW(o.token_digest, o.user_id, o.created_at, o.authenticated_at, o.expires_at)::record
                  OPERATOR(pg_catalog.*<>)
                  ROW(n.token_digest, n.user_id, n.created_at, n.authenticated_at, n.expires_at)::record
            LIMIT most OPERATOR(pg_catalog.+) 1
        ) AS changed (id)
        HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0;
    ELSE
        -- TRUNCATE, which does not say what was there.
        PERFORM pg_catalog.pg_notify(channel, 'everything');
    END IF;
    RETURN NULL;
END
$function$;

    -- After each UPDATE of the users' table. Its search_path is pg_catalog.
    of_users CONSTANT text := $function$
DECLARE
    most CONSTANT bigint := 242;
    sessions record;
    number bigint;
    ids text;
BEGIN
    -- The tables of sessions are those that announce and whose user_id refers to this table. The catalog is
    -- asked, so that a table may be renamed, restored or dropped, and this goes on with what is there. Behind
    -- a foreign key is a trigger on the table that it refers to; pg_trigger has an index by table.
    FOR sessions IN
        SELECT ours.tgrelid AS oid,
               ours.tgrelid::regclass AS name,
               key.attname AS key,
               format('OPERATOR(%I.%s)', operators.nspname, operator.oprname) AS equals,
               -- Whoever may not see every session cannot say which ones changed: then it is everything.
               has_schema_privilege(class.relnamespace, 'USAGE')
                   AND has_column_privilege(ours.tgrelid, 'id', 'SELECT')
                   AND has_column_privilege(ours.tgrelid, 'user_id', 'SELECT')
                   AND has_column_privilege(ours.tgrelid, 'expires_at', 'SELECT')
                   AND NOT row_security_active(ours.tgrelid) AS seen
        FROM pg_trigger AS behind
        JOIN pg_constraint AS reference ON reference.oid = behind.tgconstraint
        JOIN pg_trigger AS ours ON ours.tgrelid = reference.conrelid AND ours.tgname = 'tower_user_session_ended'
        JOIN pg_class AS class ON class.oid = reference.conrelid
        JOIN pg_attribute AS user_id ON user_id.attrelid = reference.conrelid AND user_id.attname = 'user_id'
        JOIN pg_attribute AS key ON key.attrelid = reference.confrelid AND key.attnum = reference.confkey[1]
        JOIN pg_operator AS operator ON operator.oid = reference.conpfeqop[1]
        JOIN pg_namespace AS operators ON operators.oid = operator.oprnamespace
        WHERE behind.tgrelid = TG_RELID
          AND behind.tgisinternal
          AND behind.tgtype & 8 <> 0 -- of the two, the one for DELETE
          AND reference.confrelid = TG_RELID
          AND reference.conkey = ARRAY[user_id.attnum]
    LOOP
        IF sessions.seen THEN
            -- As above: compared byte by byte, also where a type has no operator for it, as json has none.
            EXECUTE format($query$
                SELECT count(*), string_agg(encode(uuid_send(id), 'hex'), ' ')
                FROM (
                    SELECT s.id
                    FROM (
                        SELECT n.%1$I AS key
                        FROM old_rows AS o
                        FULL JOIN new_rows AS n ON n.%1$I %2$s o.%1$I
                        WHERE (o.* *<> n.*) IS NOT FALSE
                    ) AS changed
                    JOIN %3$s AS s ON changed.key %2$s s.user_id
                    WHERE s.expires_at > now()
                    LIMIT %4$s
                ) AS of_changed_users
            $query$, sessions.key, sessions.equals, sessions.name, most + 1)
            INTO number, ids;
        ELSE
            SELECT CASE WHEN EXISTS (SELECT FROM new_rows) THEN most + 1 ELSE 0 END INTO number;
        END IF;
        IF number > most THEN
            PERFORM pg_notify('tower_user_session_' || sessions.oid, 'everything');
        ELSIF number > 0 THEN
            PERFORM pg_notify('tower_user_session_' || sessions.oid, 'changed ' || ids);
        END IF;
    END LOOP;
    RETURN NULL;
END
$function$;

    place record;
    function text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = sessions AND attname = 'token_digest' AND NOT attisdropped
    ) THEN
        RAISE undefined_table USING
            MESSAGE = 'there is no table of sessions to announce',
            HINT = 'Run 0001_create_sessions.sql first, with the same settings.';
    END IF;

    FOR place IN
        SELECT *
        FROM (VALUES
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_ended', sessions,
             'DELETE', 'REFERENCING OLD TABLE AS old_rows'),
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_changed', sessions,
             'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_emptied', sessions,
             'TRUNCATE', ''),
            ('tower_user_session_announce_user', of_users, 'SET search_path = pg_catalog, pg_temp',
             'tower_user_session_user_changed',
             CASE WHEN announce_users THEN users::regclass END,
             'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows')
        ) AS places (function, source, path, trigger, on_table, event, rows)
        WHERE on_table IS NOT NULL
    LOOP
        SELECT format('%I.%I()', nspname, place.function) INTO function
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = sessions;

        -- The function runs with the rights of whoever writes. It must not be somebody else's to change.
        IF EXISTS (
            SELECT FROM pg_proc, pg_class
            WHERE pg_proc.oid = to_regprocedure(function) AND pg_class.oid = sessions
              AND NOT pg_has_role(proowner, relowner, 'MEMBER')
        ) THEN
            RAISE duplicate_function USING
                MESSAGE = format('function %s exists and belongs to another role than the table of sessions', function),
                HINT = 'Drop it.';
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_proc WHERE oid = to_regprocedure(function) AND prosrc = place.source
        ) THEN
            EXECUTE format(
                'CREATE OR REPLACE FUNCTION %s RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER %s AS %L',
                function, place.path, place.source);
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = place.on_table AND tgname = place.trigger AND NOT tgisinternal AND tgenabled = 'A'
              AND tgqual IS NULL
              AND tgfoid IN (SELECT oid FROM pg_proc WHERE proname = place.function)
        ) THEN
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s',
                place.trigger, place.event, place.on_table, place.rows, function);
            -- Also where session_replication_role is replica.
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', place.on_table, place.trigger);
        END IF;
    END LOOP;
END
$migration$;
