-- What makes a session live, but for its user: both limits, by this server's clock, strictly. It stands in
-- every statement that asks for live sessions, where they are called s.
(:ends_at) OPERATOR(pg_catalog.>) pg_catalog.now()
AND (:idle_seconds::pg_catalog.float8 IS NULL
     OR s.last_seen_at OPERATOR(pg_catalog.>)
        (pg_catalog.now() OPERATOR(pg_catalog.-)
         pg_catalog.make_interval(secs => :idle_seconds)))
