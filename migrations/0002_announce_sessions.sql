-- Installs triggers that announce changes with NOTIFY. This script is optional. A process can
-- invalidate its cache when it receives an announcement. The triggers announce sessions that end or
-- change, and users whose rows change. They announce the changes of every client, such as psql, and
-- also cascading deletes.
--
-- The settings of 0001 name the tables, and two more settings are read. Set them before the script
-- runs:
--   tower_user_session.sessions_table          default: sessions; the table must exist
--   tower_user_session.users_table             default: users
--   tower_user_session.users_key               default: id
--   tower_user_session.announce_users          default: off. If it is on, users whose rows change are announced
--   tower_user_session.announce_users_columns  default: empty, which means all columns. Otherwise a list of columns,
--                                              separated by commas. A user is announced if one of these columns
--                                              changes. The trigger then runs once for each such user, and other
--                                              updates cost nothing.
-- If all triggers are installed, the script changes nothing and waits for no lock.
--
-- Sessions are announced on the channel tower_user_session_<oid of the sessions table>:
--   ended <id> <id> ...    these sessions have been deleted
--   changed <id> <id> ...  a column other than last_seen_at has changed; these sessions may still be live
--   everything             any session may have ended or changed
-- Users are announced on the channel tower_user_session_users_<oid of the users table>:
--   users <hash> <hash> ...  the rows of these users have changed; both the old key and the new key are hashed
--   everything               any user may have changed
-- An id is 32 hexadecimal digits, and a hash is 16. A reader must treat any other payload as
-- "everything". src/postgres/sql/user_key.sql computes the hash. The payload contains the hash and
-- not the key, because every role may LISTEN, and a key can be an email address. Only keys of
-- integer types, uuid, text, varchar and citext have a hash. A change of a user with a key of
-- another type is announced as "everything".
--
-- Each statement sends at most one notification, and PostgreSQL delivers it after the commit. The
-- exception is announce_users_columns, which sends one notification for each row. Three kinds of
-- sessions are not announced: a new session, a session that is only used (a later last_seen_at),
-- and a session that is deleted after its absolute limit.
--
-- This is schema version 2. The version is the first argument of each trigger.
--
-- To uninstall, run this statement. Qualify the functions with the schema of the sessions table.
-- CASCADE drops the triggers too:
--   DROP FUNCTION IF EXISTS tower_user_session_announce(), tower_user_session_announce_user() CASCADE;
DO $migration$
DECLARE
    version CONSTANT text := '2';
    sessions regclass := to_regclass(
        coalesce(nullif(current_setting('tower_user_session.sessions_table', true), ''), 'sessions'));
    users text := coalesce(nullif(current_setting('tower_user_session.users_table', true), ''), 'users');
    users_key text := coalesce(nullif(current_setting('tower_user_session.users_key', true), ''), 'id');
    announce_users boolean :=
        coalesce(nullif(current_setting('tower_user_session.announce_users', true), ''), 'off')::boolean;
    announce_users_columns text :=
        nullif(current_setting('tower_user_session.announce_users_columns', true), '');

    -- This function runs after each statement on the sessions table, with the search_path of the
    -- writer. Therefore every name in the function is schema-qualified. A search_path of its own
    -- would slow down every touch and sign-in.
    of_sessions CONSTANT text := $function$
#variable_conflict use_variable -- An application can add a column that has the name of a variable.
DECLARE
    channel CONSTANT pg_catalog.text := pg_catalog.concat('tower_user_session_', TG_RELID);
    -- The number of ids that fit into the longest payload, 7999 bytes.
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
        -- If the id of a row has changed, the full join yields both ids. A full join is never a
        -- nested loop, even in an old plan. Rows are compared byte by byte. Therefore no operator
        -- of a column's type is called. A use is not announced: before the comparison, the new row
        -- gets the last_seen_at of the old row.
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
               OR o.* OPERATOR(pg_catalog.*<>) pg_catalog.jsonb_populate_record(
                      n.*, pg_catalog.jsonb_build_object('last_seen_at', o.last_seen_at))
            LIMIT most OPERATOR(pg_catalog.+) 1
        ) AS changed (id)
        HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0;
    ELSE
        -- TRUNCATE has no transition table.
        PERFORM pg_catalog.pg_notify(channel, 'everything');
    END IF;
    RETURN NULL;
END
$function$;

    -- This function runs after each UPDATE of the users table, or after each updated row. The
    -- second argument of the trigger names the key. The function reads only the changed rows and
    -- the catalog. Its search_path is pg_catalog.
    of_users CONSTANT text := $function$
DECLARE
    channel CONSTANT text := 'tower_user_session_users_' || TG_RELID;
    -- The number of hashes that fit into a payload.
    most CONSTANT bigint := 470;
    has_hash boolean;
    changed CONSTANT text := $query$
        SELECT count(*), string_agg(lpad(to_hex(users.hash), 16, '0'), ' ')
        FROM (
            SELECT DISTINCT
                CASE
                    WHEN pg_catalog.pg_typeof(keys.key)::pg_catalog.oid
                         OPERATOR(pg_catalog.=) ANY ('{20,21,23,25,1043,2950}'::pg_catalog.oid[])
                    THEN pg_catalog.hashtextextended(keys.key::pg_catalog.text, 0)
                    WHEN pg_catalog.format_type(pg_catalog.pg_typeof(keys.key)::pg_catalog.oid, NULL)
                         OPERATOR(pg_catalog.~) '(^|[.])citext$'
                    THEN pg_catalog.hashtextextended(
                        pg_catalog.lower(keys.key::pg_catalog.text COLLATE pg_catalog."default"), 0)
                END
            FROM %s
            LIMIT %s
        ) AS users (hash)
    $query$;
    number bigint;
    hashes text;
BEGIN
    SELECT type.oid = ANY ('{20,21,23,25,1043,2950}'::oid[]) OR type.typname = 'citext'
    INTO has_hash
    FROM pg_attribute AS key
    JOIN pg_type AS type ON type.oid = key.atttypid
    WHERE key.attrelid = TG_RELID AND key.attname = TG_ARGV[1] AND NOT key.attisdropped;
    IF has_hash IS NOT TRUE THEN
        -- There is no hash for the type of the key, or the key column was renamed.
        IF TG_LEVEL = 'ROW' THEN
            PERFORM pg_notify(channel, 'everything');
        ELSE
            PERFORM pg_notify(channel, 'everything') FROM new_rows LIMIT 1;
        END IF;
        RETURN NULL;
    END IF;
    IF TG_LEVEL = 'ROW' THEN
        EXECUTE format(changed, format('(VALUES (($1).%1$I), (($2).%1$I)) AS keys (key)', TG_ARGV[1]), most)
        INTO number, hashes USING OLD, NEW;
    ELSE
        -- Rows are joined by the text of the key, because the operators of its type can be in any
        -- schema. As for sessions, rows are compared byte by byte, because some types, such as
        -- json, have no equality operator.
        EXECUTE format(changed, format($rows$
            old_rows AS o
            FULL JOIN new_rows AS n ON n.%1$I::text COLLATE "C" = o.%1$I::text COLLATE "C"
            CROSS JOIN LATERAL (VALUES (o.%1$I), (n.%1$I)) AS keys (key)
            WHERE (o.* *<> n.*) IS NOT FALSE AND keys.key IS NOT NULL
        $rows$, TG_ARGV[1]), most + 1)
        INTO number, hashes;
    END IF;
    IF number > most THEN
        PERFORM pg_notify(channel, 'everything');
    ELSIF number > 0 THEN
        PERFORM pg_notify(channel, 'users ' || hashes);
    END IF;
    RETURN NULL;
END
$function$;

    place record;
    function text;
    -- The WHEN condition of a trigger that runs for each row.
    condition text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = sessions AND attname = 'token_digest' AND NOT attisdropped
    ) THEN
        RAISE undefined_table USING
            MESSAGE = 'there is no table of sessions to announce',
            HINT = 'Run 0001_create_sessions.sql first, with the same settings.';
    END IF;
    IF announce_users AND NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = users::regclass AND attname = users_key AND attnum > 0 AND NOT attisdropped
    ) THEN
        RAISE undefined_column USING
            MESSAGE = format('column %I of the users'' table %s does not exist', users_key, users),
            HINT = 'Set tower_user_session.users_key to the key of the users'' table.';
    END IF;
    IF announce_users AND announce_users_columns IS NOT NULL THEN
        -- parse_ident rejects a string that is not a name. Therefore the statement below contains
        -- only identifiers. Rows are compared byte by byte, as above.
        SELECT format('WHEN (ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record)',
                      string_agg('OLD.' || quote_ident(name), ', '), string_agg('NEW.' || quote_ident(name), ', '))
        INTO condition
        FROM (
            SELECT users_key
            UNION
            SELECT (parse_ident(name))[1] FROM unnest(string_to_array(announce_users_columns, ',')) AS given (name)
        ) AS columns (name);
    END IF;

    FOR place IN
        SELECT *
        FROM (VALUES
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_ended', sessions,
             'DELETE', 'REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT', ARRAY[version], 8),
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_changed', sessions,
             'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT',
             ARRAY[version], 16),
            ('tower_user_session_announce', of_sessions, '', 'tower_user_session_emptied', sessions,
             'TRUNCATE', 'FOR EACH STATEMENT', ARRAY[version], 32),
            ('tower_user_session_announce_user', of_users, 'SET search_path = pg_catalog, pg_temp',
             'tower_user_session_user_changed',
             CASE WHEN announce_users THEN users::regclass END,
             'UPDATE',
             coalesce('FOR EACH ROW ' || condition,
                      'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT'),
             array_remove(ARRAY[version, users_key, condition], NULL),
             CASE WHEN condition IS NULL THEN 16 ELSE 17 END)
        ) AS places (function, source, path, trigger, on_table, event, rows, arguments, type)
        WHERE on_table IS NOT NULL
    LOOP
        SELECT format('%I.%I', nspname, place.function) INTO function
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = sessions;

        -- The function runs with the privileges of the role that writes. No other role may be able
        -- to change the function.
        IF EXISTS (
            SELECT FROM pg_proc, pg_class
            WHERE pg_proc.oid = to_regprocedure(function || '()') AND pg_class.oid = sessions
              AND NOT pg_has_role(proowner, relowner, 'MEMBER')
        ) THEN
            RAISE duplicate_function USING
                MESSAGE = format(
                    'function %s() exists and belongs to another role than the table of sessions', function),
                HINT = 'Drop it.';
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_proc WHERE oid = to_regprocedure(function || '()') AND prosrc = place.source
        ) THEN
            EXECUTE format(
                'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER %s AS %L',
                function, place.path, place.source);
        END IF;
        -- The last argument of a trigger repeats its condition. The condition can then be compared
        -- here.
        IF NOT EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = place.on_table AND NOT tgisinternal AND tgenabled = 'A'
              AND (tgqual IS NULL OR condition IS NOT NULL)
              AND tgtype = place.type
              AND tgargs = (
                  SELECT string_agg(convert_to(argument, getdatabaseencoding()) || '\x00', '' ORDER BY number)
                  FROM unnest(place.arguments) WITH ORDINALITY AS arguments (argument, number))
              AND tgfoid = to_regprocedure(function || '()')
        ) THEN
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s EXECUTE FUNCTION %s(%s)',
                place.trigger, place.event, place.on_table, place.rows, function,
                (SELECT string_agg(quote_literal(argument), ', ' ORDER BY number)
                 FROM unnest(place.arguments) WITH ORDINALITY AS arguments (argument, number)));
            -- The trigger must fire also if session_replication_role is replica.
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', place.on_table, place.trigger);
        END IF;
    END LOOP;
END
$migration$;
