-- What is done to messages: where they are, for those who visit the mailbox.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Where messages are, and what it takes to go there, for the mail functions' role. Of those that are not the user's, or
-- whose account is deleted, there is no row. `kind`: `account`, each once, with its sealed password, and `wait`, how many
-- milliseconds must pass before the next try where the server has refused this login; `folder`, those that messages lie in,
-- those that are their labels, `p_folder_id`, and of each account those that have a role; `message`. A try of a refused login
-- is noted.
create function locate_messages(p_tenant_id uuid, p_user_id uuid, p_ids uuid[], p_folder_id uuid)
returns table (
    kind text, account email_accounts, sealed_password bytea, wait bigint,
    id uuid, account_id uuid, folder_id uuid,
    wire_name bytea, path text, role text, is_selectable boolean, is_label boolean, uid_validity bigint,
    uid bigint, identity uuid, size bigint, is_read boolean, is_flagged boolean, is_answered boolean, labels uuid[]
)
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
    v_accounts uuid[];
    v_folders uuid[];
    v_account email_accounts;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select array_agg(distinct m.account_id), array_agg(distinct m.folder_id) into v_accounts, v_folders
    from email_messages m
    where m.id = any (p_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id;
    kind := 'account';
    for v_account in
        select * from email_accounts a
        where a.id = any (v_accounts) and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
        order by a.id
    loop
        account := v_account;
        account_id := v_account.id;
        wait := case
            when v_account.state <> 'authenticationError' then 0
            else greatest(0, coalesce(v_account.tried_at, 0) + 60000 - v_now)
        end;
        if wait = 0 and v_account.state = 'authenticationError' then
            update email_accounts a set tried_at = v_now
            where a.id = v_account.id and a.tenant_id = p_tenant_id and a.user_id = p_user_id;
        end if;
        select c.sealed_password into sealed_password from email_credentials c
        where c.id = v_account.credential_id and c.tenant_id = p_tenant_id and c.user_id = p_user_id;
        return next;
    end loop;
    return query
        select 'folder', null::email_accounts, null::bytea, null::bigint, f.id, f.account_id, f.id,
            f.wire_name, f.path, f.role, f.is_selectable and not f.is_gone, f.is_label, f.uid_validity,
            null::bigint, null::uuid, null::bigint, null::boolean, null::boolean, null::boolean, null::uuid[]
        from email_folders f
        where f.account_id = any (v_accounts) and f.tenant_id = p_tenant_id and f.user_id = p_user_id
            and (
                f.id = any (v_folders) or f.id = p_folder_id or f.role is not null
                or f.id in (
                    select l.folder_id from email_labels l
                    where l.message_id = any (p_ids) and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                )
            );
    return query
        select 'message', null::email_accounts, null::bytea, null::bigint, m.id, m.account_id, m.folder_id,
            null::bytea, null::text, null::text, null::boolean, null::boolean, null::bigint,
            m.uid, m.identity, m.size, m.is_read, m.is_flagged, m.is_answered,
            array(
                select l.folder_id from email_labels l
                where l.message_id = m.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
                order by l.folder_id
            )
        from email_messages m join email_accounts a on a.id = m.account_id
        where m.id = any (p_ids) and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

reset role;
