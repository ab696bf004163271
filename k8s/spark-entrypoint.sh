#!/bin/bash
# What Spark wants of its image on Kubernetes: `driver ARGUMENTS` and `executor`, with their settings
# in SPARK_ variables. Anything else is run as it stands.
set -euo pipefail

case "${1:-}" in
driver)
    shift
    exec spark-submit --deploy-mode client \
        --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" "$@"
    ;;
executor)
    options=()
    for ((i = 0; ; i++)); do
        name="SPARK_JAVA_OPT_$i"
        [ -n "${!name+set}" ] || break
        options+=("${!name}")
    done
    spark_home=$(python -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')
    exec java "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
        -cp "${SPARK_CLASSPATH:-}:$spark_home/jars/*" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" \
        --cores "$SPARK_EXECUTOR_CORES" --app-id "$SPARK_APPLICATION_ID" \
        --hostname "$SPARK_EXECUTOR_POD_IP" --podName "$SPARK_EXECUTOR_POD_NAME" \
        --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID:-0}"
    ;;
*)
    exec "$@"
    ;;
esac
