-- What the service does to the tables, one function per operation.
--
-- Why functions: each sets the row-level security context and runs its query inside ONE statement, so a
-- request is one round trip and one implicit transaction. The context cannot outlive it, nothing is left
-- open when a client vanishes, no session state exists for PgBouncer or RDS Proxy to trip over, and the
-- plans of the inner statements are cached per connection. README.md, "One round trip", has the figures.
--
-- They run with the caller's rights: the policies hold inside. Each statement filters by tenant and user
-- all the same; the two locks are independent.
set local lock_timeout = '5s';
set local role email_service_owner;

create function epoch_ms() returns bigint
language sql volatile
as $$ select (extract(epoch from clock_timestamp()) * 1000)::bigint $$;

create function list_accounts(p_tenant_id uuid, p_user_id uuid, p_limit bigint, p_offset bigint)
returns table (total bigint, account email_accounts)
language plpgsql
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    -- The left join keeps the total when the page is empty.
    return query
        select counted.total, page.account
        from (
            select count(*) as total from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        ) counted
        left join (
            select a as account from email_accounts a
            where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
            order by a.created_at desc, a.id desc
            limit p_limit offset p_offset
        ) page on true;
end
$$;

create function find_account(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_accounts
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        select * from email_accounts a
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

create function insert_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_credential_id uuid, p_algorithm text, p_password_hash text, p_salt text
)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    insert into email_credentials (id, tenant_id, user_id, algorithm, password_hash, salt, created_at, updated_at)
    values (p_credential_id, p_tenant_id, p_user_id, p_algorithm, p_password_hash, p_salt, v_now, v_now);
    return query
        insert into email_accounts as a (
            id, tenant_id, user_id, account_name, email_address, protocol, hostname, port, encryption,
            username, credential_id, is_sync_enabled, sync_interval, created_at, updated_at
        )
        values (
            p_id, p_tenant_id, p_user_id, p_account_name, p_email_address, p_protocol, p_hostname, p_port, p_encryption,
            p_username, p_credential_id, p_is_sync_enabled, p_sync_interval, v_now, v_now
        )
        returning a.*;
end
$$;

-- Null keeps the old value. Nothing is written, and updated_at stays, when nothing differs.
create function update_account(
    p_tenant_id uuid, p_user_id uuid, p_id uuid,
    p_account_name text, p_email_address text, p_protocol text, p_hostname text, p_port integer,
    p_encryption text, p_username text, p_is_sync_enabled boolean, p_sync_interval integer,
    p_is_enabled boolean, p_algorithm text, p_password_hash text, p_salt text
)
returns setof email_accounts
language plpgsql rows 1
as $$
declare
    v_old email_accounts;
    v_new email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select * into v_old from email_accounts a
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
    for update;
    if not found then
        return;
    end if;

    v_new := v_old;
    v_new.account_name := coalesce(p_account_name, v_old.account_name);
    v_new.email_address := coalesce(p_email_address, v_old.email_address);
    v_new.protocol := coalesce(p_protocol, v_old.protocol);
    v_new.hostname := coalesce(p_hostname, v_old.hostname);
    v_new.port := coalesce(p_port, v_old.port);
    v_new.encryption := coalesce(p_encryption, v_old.encryption);
    v_new.username := coalesce(p_username, v_old.username);
    v_new.is_sync_enabled := coalesce(p_is_sync_enabled, v_old.is_sync_enabled);
    v_new.sync_interval := coalesce(p_sync_interval, v_old.sync_interval);
    v_new.is_enabled := coalesce(p_is_enabled, v_old.is_enabled);

    if v_new is distinct from v_old or p_password_hash is not null then
        -- Strictly growing, also within one millisecond and after the clock was set back.
        v_new.updated_at := greatest(epoch_ms(), v_old.updated_at + 1);
        update email_accounts a
        set account_name = v_new.account_name, email_address = v_new.email_address, protocol = v_new.protocol,
            hostname = v_new.hostname, port = v_new.port, encryption = v_new.encryption, username = v_new.username,
            is_sync_enabled = v_new.is_sync_enabled, sync_interval = v_new.sync_interval,
            is_enabled = v_new.is_enabled, updated_at = v_new.updated_at
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
    end if;
    if p_password_hash is not null then
        update email_credentials c
        set algorithm = p_algorithm, password_hash = p_password_hash, salt = p_salt, updated_at = v_new.updated_at
        where c.id = v_old.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
    end if;
    return next v_new;
end
$$;

create function disable_account(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_accounts
language plpgsql rows 1
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        update email_accounts a
        set is_enabled = false, updated_at = greatest(epoch_ms(), a.updated_at + 1)
        where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        returning a.*;
end
$$;

reset role;
