-- The hash that represents a user's key in announcements, computed from sessions.user_id. The
-- trigger on the users table (migrations/0002_announce_sessions.sql) computes the same expression
-- from the key. Equal keys have equal hashes: text is hashed under its collation, and citext in
-- lower case. The text form of these types does not depend on a setting. For keys of other types
-- the hash is null.
CASE
    WHEN pg_catalog.pg_typeof(s.user_id)::pg_catalog.oid
         OPERATOR(pg_catalog.=) ANY ('{20,21,23,25,1043,2950}'::pg_catalog.oid[])
    THEN pg_catalog.hashtextextended(s.user_id::pg_catalog.text, 0)
    WHEN pg_catalog.format_type(pg_catalog.pg_typeof(s.user_id)::pg_catalog.oid, NULL)
         OPERATOR(pg_catalog.~) '(^|[.])citext$'
    THEN pg_catalog.hashtextextended(
        pg_catalog.lower(s.user_id::pg_catalog.text COLLATE pg_catalog."default"), 0)
END
