-- What jobs need beside what V7 has: a worker that gives an account up for an hour, and the purge of what deleted accounts
-- and destroyed things leave behind.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Notes that the service could not synchronise an account, by its own fault, and when it tries again.
create function give_up_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_pause bigint, p_message text)
returns void
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set rung_at = null, sync_requested_at = null, sync_started_at = null, leased_until = null,
        -- Should the one that failed be at work still, it writes nothing any more.
        lease_token = a.lease_token + 1,
        next_sync_at = v_now + p_pause, last_error_code = 'unavailable', last_error_message = p_message,
        last_error_service = a.protocol, last_error_at = v_now
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

reset role;
