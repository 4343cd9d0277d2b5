-- Waits for the sign-ins in progress and blocks new sign-ins. Lookups continue.
LOCK TABLE :sessions IN SHARE ROW EXCLUSIVE MODE
