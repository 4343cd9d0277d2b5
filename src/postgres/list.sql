-- The user's live sessions, for the person's eyes: no token, no digest.
--
-- The User-Agent comes as bytes. In a database of SQL_ASCII another program may have stored bytes that are no UTF-8:
-- the server would fail the whole list.
SELECT pg_catalog.now(), s.id, s.created_at, s.authenticated_at, s.last_seen_at, :ends_at,
       pg_catalog.convert_to(
           s.user_agent,
           CASE
               WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII' THEN 'SQL_ASCII'
               ELSE 'UTF8'
           END),
       s.ip
FROM :sessions AS s
WHERE s.user_id :equals :user_id
  AND :live
ORDER BY s.last_seen_at DESC, s.created_at DESC, s.id
