-- A user is of one tenant, which the planner has to be told: it multiplies how rare a tenant is by how rare a user is,
-- takes a user's accounts for one at the most, and then reads all of them in search of one.
set local lock_timeout = '5s';
set local role email_service_owner;

create statistics email_accounts_owner_stats (dependencies) on tenant_id, user_id from email_accounts;
analyze email_accounts;

reset role;
