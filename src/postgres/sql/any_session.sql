-- Returns whether the table still contains a session. revoke_everyone.sql should have deleted all
-- sessions.
SELECT EXISTS (SELECT FROM :sessions AS s)
