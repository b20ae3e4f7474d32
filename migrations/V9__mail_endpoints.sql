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

-- A page of a user's messages, newest first, after the place `p_cursor_at`, `p_cursor_id`. Null asks for no filter. The
-- statement is made of the conditions that are asked for: one that may be off is none for an index, and a partial index
-- serves its own condition alone. Nothing is sorted that an index has in order, whatever the planner believes of how many
-- messages a user or a folder has: a few, it thinks, and would read them all. At Gmail the folder of a message is the first
-- of its labels.
create function list_messages(
    p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_account_id uuid, p_folder_id uuid, p_role text,
    p_is_read boolean, p_is_flagged boolean, p_after bigint, p_before bigint, p_cursor_at bigint, p_cursor_id uuid
)
returns setof email_messages
language plpgsql rows 50
set enable_sort = off
set enable_incremental_sort = off
set enable_bitmapscan = off
set jit = off -- The sort that is left counts as dear, and would be compiled.
as $$
declare
    v_is_after_cursor constant boolean := p_cursor_id is not null and (p_before is null or p_cursor_at < p_before);
    v_flags constant text := concat_ws(' and ',
        '%1$s.tenant_id = $1 and %1$s.user_id = $2',
        case p_is_read when true then '%1$s.is_read' when false then 'not %1$s.is_read' end,
        case p_is_flagged when true then '%1$s.is_flagged' when false then 'not %1$s.is_flagged' end
    );
    v_bounds constant text := concat_ws(' and ',
        -- A range of folders that is one: so only an index that begins with the folder has this order, and not that of all
        -- the user's messages.
        case when v_is_after_cursor then '(%1$s.folder_id, %1$s.received_at, %2$s) < (f.id, $7, $8)'
            when p_before is not null then '(%1$s.folder_id, %1$s.received_at) < (f.id, $6)'
            else '%1$s.folder_id <= f.id' end,
        case when p_after is not null then '(%1$s.folder_id, %1$s.received_at) >= (f.id, $5)'
            else '%1$s.folder_id >= f.id' end
    ) || ' order by %1$s.folder_id desc, %1$s.received_at desc, %2$s desc limit $3';
    v_has_labels boolean;
    v_ids uuid[];
    v_labels uuid[];
    v_statement text;
    v_message email_messages;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    v_has_labels := exists (
        select from email_folders f where f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.is_label
    );
    if p_account_id is null and p_folder_id is null and p_role is null
        and p_is_read is distinct from false and p_is_flagged is distinct from true
    then
        -- Mail of a deleted account is here until it is purged.
        v_ids := array(
            select a.id from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        );
        v_statement := concat_ws(' and ',
            'select m.* from email_messages m where ' || format(v_flags, 'm') || ' and m.account_id = any ($4)',
            case when v_is_after_cursor then '(m.received_at, m.id) < ($7, $8)'
                when p_before is not null then 'm.received_at < $6' end,
            case when p_after is not null then 'm.received_at >= $5' end
        );
    else
        v_ids := array(
            select f.id from email_accounts a join email_folders f on f.account_id = a.id
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                and f.tenant_id = p_tenant_id and f.user_id = p_user_id
                and (p_account_id is null or a.id = p_account_id)
                and (p_folder_id is null or f.id = p_folder_id)
                and (p_role is null or f.role = p_role)
        );
        -- From each folder no more than the page needs.
        v_statement := 'select m.* from unnest($4) as f (id) cross join lateral (select * from email_messages m where '
            || format(v_flags || ' and ' || v_bounds, 'm', 'm.id') || ') m';
        if v_has_labels and (p_folder_id is not null or p_role is not null) then
            -- Who asks for all folders finds labelled messages where they lie.
            v_labels := array(
                select f.id from email_folders f
                where f.id = any (v_ids) and f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.is_label
            );
            v_statement := 'select m.* from (' || v_statement || ' union all
                select m.* from unnest($9) as f (id) cross join lateral (
                    select m.* from email_labels l join email_messages m on m.id = l.message_id
                    where m.tenant_id = $1 and m.user_id = $2 and '
                || format(v_flags || ' and ' || v_bounds, 'l', 'l.message_id') || ') m) m';
        end if;
    end if;
    v_statement := v_statement || ' order by m.received_at desc, m.id desc limit $3';
    if not v_has_labels then
        return query execute v_statement
            using p_tenant_id, p_user_id, p_limit, v_ids, p_after, p_before, p_cursor_at, p_cursor_id;
        return;
    end if;
    for v_message in execute v_statement
        using p_tenant_id, p_user_id, p_limit, v_ids, p_after, p_before, p_cursor_at, p_cursor_id, v_labels
    loop
        v_message.folder_id := coalesce((
            select l.folder_id from email_labels l join email_folders f on f.id = l.folder_id
            where l.message_id = v_message.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            order by coalesce(array_position('{inbox,sent,drafts}'::text[], f.role), 4), l.folder_id
            limit 1
        ), v_message.folder_id);
        return next v_message;
    end loop;
end
$$;

-- Who asks for a synchronisation has a refused login tried.
grant update (tried_at) on email_accounts to email_service_app;

reset role;
