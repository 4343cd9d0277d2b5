SELECT a.event, a.happened_at, a.session_id::text, a.user_agent, a.ip,
       a.event = 'began'
       AND EXISTS (
           SELECT FROM sessions_audit AS e
           WHERE e.user_id = a.user_id AND e.id < a.id AND e.event = 'began'
       )
       AND NOT EXISTS (
           SELECT FROM sessions_audit AS e
           WHERE e.user_id = a.user_id AND e.id < a.id AND e.event = 'began'
             AND e.user_agent IS NOT DISTINCT FROM a.user_agent
       ) AS is_new_client
FROM sessions_audit AS a
WHERE a.user_id = $1::bigint::text
ORDER BY a.id DESC
LIMIT $2
