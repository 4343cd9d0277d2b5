-- The condition that the session s has not reached the idle limit, by the clock of this server.
(:idle_seconds::pg_catalog.float8 IS NULL
     OR s.last_seen_at OPERATOR(pg_catalog.>)
        (pg_catalog.now() OPERATOR(pg_catalog.-)
         pg_catalog.make_interval(secs => :idle_seconds)))
