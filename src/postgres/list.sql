-- The user's live sessions, for the person's eyes: no token, no digest.
SELECT pg_catalog.now(), s.id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at,
       s.user_agent, s.ip
FROM :sessions AS s
WHERE s.user_id = :user_id
  AND :live
ORDER BY s.last_seen_at DESC, s.created_at DESC, s.id
