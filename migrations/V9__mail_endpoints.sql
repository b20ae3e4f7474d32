-- What the endpoints ask of synchronised mail, one function per operation, as in V3.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Asks for a synchronisation, whatever the account's plans are. While one is asked for or runs, that one is meant. Where the
-- server has refused this login, `wait` says how many milliseconds must pass before the next try, and nothing is written.
create function request_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (id uuid, requested_at bigint, is_running boolean, wait bigint)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into v_account from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for no key update;
    if not found then
        return;
    end if;
    id := p_id;
    is_running := coalesce(v_account.leased_until > v_now, false);
    requested_at := v_account.sync_requested_at;
    wait := 0;
    if requested_at is null or not (is_running or v_account.rung_at is not null) then
        requested_at := v_now;
        if is_running then
            -- Its worker is at it: nobody need be rung.
            update email_accounts a set sync_requested_at = v_now
            where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
        elsif v_account.state = 'authenticationError' and v_account.tried_at + 60000 > v_now then
            wait := v_account.tried_at + 60000 - v_now;
        else
            update email_accounts a
            set rung_at = v_now, sync_requested_at = v_now, next_sync_at = v_now, tried_at = v_now
            where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
        end if;
    end if;
    return next;
end
$$;

-- How a synchronisation stands. Counts are of the folders that the server has and where messages can lie.
create function find_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (
    account email_accounts, status text,
    folders_done bigint, folders_total bigint, messages_done bigint, messages_total bigint
)
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select a,
            case when a.leased_until > epoch_ms() then 'syncing' when a.rung_at is not null then 'queued' else 'idle' end,
            counted.*
        from email_accounts a
        cross join lateral (
            select
                count(*) filter (where f.is_complete), count(*),
                coalesce(sum(least(f.stored, f.total)), 0), coalesce(sum(f.total), 0)
            from email_folders f
            where f.account_id = a.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
                and f.is_selectable and not f.is_label and not f.is_gone
        ) counted
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

-- Ends the synchronisation that is asked for or runs, if there is one, and returns the account's id.
create function cancel_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (id uuid)
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into v_account from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for no key update;
    if not found then
        return;
    end if;
    id := p_id;
    if v_account.rung_at is not null or v_account.leased_until is not null or v_account.next_sync_at <= v_now then
        update email_accounts a
        set lease_token = a.lease_token + 1, leased_until = null, rung_at = null, sync_requested_at = null,
            sync_started_at = null,
            next_sync_at = case
                when a.next_sync_at is null then null
                -- What was asked for was done at once; the service itself tries a refused login once more, and late.
                when a.state = 'credentialsMissing' or a.state = 'authenticationError' and a.failures > 1 then null
                when a.state = 'authenticationError' then v_now + greatest(a.sync_interval * 1000::bigint, 900000)
                else v_now + a.sync_interval * 1000::bigint
            end
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
    end if;
    return next;
end
$$;

-- An account's folders, also those that are gone from the server as long as messages of theirs are here. `id` is the
-- account's; one without folders is one row that has only that.
create function list_folders(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns table (
    id uuid, folder_id uuid, path text, delimiter text, role text, is_selectable boolean, total integer, unread integer
)
language plpgsql rows 20
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select a.id, f.id, f.path, f.delimiter, f.role, f.is_selectable, f.total, f.unread
        from email_accounts a
        left join email_folders f on f.account_id = a.id and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        order by f.path collate "C", f.id;
end
$$;

-- Who asks for a synchronisation has a refused login tried.
grant update (tried_at) on email_accounts to email_service_app;

reset role;
