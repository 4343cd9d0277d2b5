-- Returns the user's live sessions, for display to the user. The result contains neither tokens nor
-- digests.
--
-- The User-Agent is returned as bytes. In a database with the encoding SQL_ASCII, another program
-- can have stored bytes that are not UTF-8. If such bytes were returned as text, the whole
-- statement would fail.
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
