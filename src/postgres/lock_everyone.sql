-- Wait for the sign-ins that are under way, and keep others waiting. Lookups go on.
LOCK TABLE :sessions IN SHARE ROW EXCLUSIVE MODE
