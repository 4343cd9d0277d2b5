-- Returns two values for each session: its remaining lifetime in seconds, if no request uses the
-- session, and the hash of its user's key. Both are null if a lookup would not find the session.
-- Each id yields a row. Therefore a server in recovery is always detected.
SELECT asked.id, pg_catalog.pg_is_in_recovery(), live.seconds, live.user_key
FROM pg_catalog.unnest(:ids::pg_catalog.uuid[]) AS asked (id)
LEFT JOIN LATERAL (
    SELECT pg_catalog.date_part('epoch', least(
               :ends_at OPERATOR(pg_catalog.-) pg_catalog.now(),
               s.last_seen_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :idle_seconds)
                   OPERATOR(pg_catalog.-) pg_catalog.now())),
           :user_key
    FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) asked.id
      AND :live
      AND :user_allowed
    OFFSET 0
) AS live (seconds, user_key) ON true
