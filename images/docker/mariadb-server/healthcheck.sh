#!/bin/bash
# Health of the database server in this container, with the options of the script that MariaDB's own image has, as far as
# deployments use them. Exit status: 0 every check that was asked for holds, 1 one does not, 2 wrong usage.
#
#   healthcheck.sh [--defaults-file FILE] [--connect] [--innodb_initialized] [--galera_online] [--galera_ready] ...
set -u

client=(mariadb)
checks=()
while [ $# -gt 0 ]; do
    case "$1" in
        --defaults-file=*) client=(mariadb "$1") ;;
        --defaults-file) client=(mariadb "--defaults-file=${2:?$1 needs a file}"); shift ;;
        --connect|--innodb_initialized|--galera_online|--galera_ready) checks+=("${1#--}") ;;
        *) echo "healthcheck.sh: unknown option: $1" >&2; exit 2 ;;
    esac
    shift
done
[ ${#checks[@]} -gt 0 ] || { echo "healthcheck.sh: no check was asked for" >&2; exit 2; }

query() { "${client[@]}" --connect-timeout=5 --skip-column-names --batch --execute "$1"; }
status() { query "SHOW GLOBAL STATUS LIKE '$1'" | cut -f 2; }

for check in "${checks[@]}"; do
    case "$check" in
        connect) query 'SELECT 1' > /dev/null ;;
        innodb_initialized)
            [ "$(query "SELECT support FROM information_schema.engines WHERE engine = 'InnoDB'")" = DEFAULT ] ;;
        galera_online)
            # A donor serves queries as well: it must not be taken for dead while another node is joining.
            case "$(status wsrep_local_state)" in 2|4) true ;; *) false ;; esac ;;
        galera_ready) [ "$(status wsrep_ready)" = ON ] ;;
    esac || { echo "healthcheck.sh: $check does not hold" >&2; exit 1; }
done
